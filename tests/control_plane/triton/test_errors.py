"""Engines' and Triton's errors become ours."""

from __future__ import annotations

import grpc
import pytest

from backends.contract.errors import EngineDead, ErrorCode, GraphFailed, InvalidField, Overloaded
from control_plane import errors
from control_plane.errors import EngineFailed, ModelNotReady, TriadError, Unavailable
from control_plane.inference.engine_errors import ENGINE_ERRORS, of_engine
from control_plane.triton.errors import from_text, translate


def test_every_code_has_an_error() -> None:
    assert ENGINE_ERRORS.keys() == set(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_the_code_alone_says_what_it_is(code: ErrorCode) -> None:
    """And is not in the message."""
    error = from_text(f"Stub process, unknown model [{code}]")
    assert type(error) is ENGINE_ERRORS[code]
    assert error.message == "Stub process, unknown model"


def test_what_another_server_could_do_may_be_tried_again_later() -> None:
    for error in (Overloaded("full"), EngineDead("dead"), GraphFailed("decoder: down")):
        translated = of_engine(error)
        assert isinstance(translated, Unavailable)
        assert (translated.status, translated.headers["Retry-After"]) == (503, "1")
        assert translated.message == str(error)


def test_an_error_says_when_to_come_again() -> None:
    error = from_text(Overloaded("full", retry_after=1.25).wire_text)
    assert error.message == "full"
    assert error.headers == {"Retry-After": "2", "retry-after-ms": "1250"}


def test_a_field_has_the_name_that_clients_know() -> None:
    error = of_engine(InvalidField("text_input", "must not be empty"))
    assert (error.message, error.param) == ("prompt: must not be empty", "prompt")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Stub process 'demo_0_0' is not healthy.", ModelNotReady),
        ("Request for unknown model: 'demo' is not found", ModelNotReady),
        ("This protocol is restricted, expecting header 'x'", errors.ProtocolRestricted),
        ("3 requests are waiting", EngineFailed),  # no code: it is not our engines'
        ("max_tokens: must be positive", EngineFailed),
    ],
)
def test_what_triton_itself_writes(text: str, kind: type[TriadError]) -> None:
    assert type(from_text(text)) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.PayloadTooLarge),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, ModelNotReady),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.INTERNAL, EngineFailed),
    ],
)
def test_calls_that_fail(status: grpc.StatusCode, kind: type[TriadError]) -> None:
    error = translate(status, "10.0.0.1: some words")
    assert type(error) is kind
    assert kind is not Unavailable or "10.0.0.1" not in error.message


def test_a_defect_is_not_for_clients() -> None:
    for text in (
        "KeyError: 'secret' [engine_failed]",
        "decoder: RuntimeError: 'secret' [graph_failed]",
    ):
        assert "secret" not in from_text(text).message
