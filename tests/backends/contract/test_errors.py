"""What goes over the wire of an error, and what is read from it."""

from __future__ import annotations

import pytest

from backends.contract import errors
from backends.contract.errors import (
    ContextExceeded,
    EngineError,
    ErrorCode,
    GraphFailed,
    InvalidField,
    Overloaded,
    of_graph,
    parse,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, EngineError)
]


def test_every_class_has_a_code_of_its_own_and_every_code_a_class() -> None:
    assert sorted(kind.code for kind in CLASSES) == sorted(ErrorCode)


@pytest.mark.parametrize(
    "error",
    [
        EngineError("it failed"),
        EngineError(""),
        EngineError("it ends with a code [overloaded]"),
        Overloaded("3 requests are waiting"),
        Overloaded("3 requests are waiting", retry_after=1.25),
        InvalidField("stop", "must be [a, b]"),
        ContextExceeded.of_prompt("messages", 8, "9 tokens"),
    ],
)
def test_what_is_written_is_read(error: EngineError) -> None:
    assert parse(error.wire_text) == (error.code, str(error), error.retry_after)


@pytest.mark.parametrize(
    "text", ["", "it failed", "it failed [overloaded] again", "[overloaded]", "a [none_of_ours]"]
)
def test_a_text_without_a_code_is_not_ours(text: str) -> None:
    assert parse(text) == (None, text, None)


def test_half_a_surrogate_pair_can_be_sent() -> None:
    assert EngineError("\ud800").wire_text == "\\ud800 [engine_failed]"


def test_a_graphs_error_is_no_error_of_the_request() -> None:
    full = of_graph("decoder", Overloaded("all 3 sequence slots are in use").wire_text)
    assert (type(full), str(full)) == (Overloaded, "decoder: all 3 sequence slots are in use")
    for text in (InvalidField("input 'x'", "is missing").wire_text, "input 'x': is missing"):
        failed = of_graph("decoder", text)
        assert (type(failed), str(failed)) == (GraphFailed, "decoder: input 'x': is missing")
