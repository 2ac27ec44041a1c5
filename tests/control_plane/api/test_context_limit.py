"""Prompts that cannot fit are refused for their length, and long ones hold up nobody."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import pytest
import requests

from tests.support.contract import InferenceServerException, cancel, describe, infer
from tests.support.server import TriadServer, wait_until

HUGE = "word " * 700_000
LONG = "7" * 480_000
"""Has as many tokens: a second of work, which is taken on where a text is only to be tokenised."""
USER = {"role": "user", "content": HUGE}
IDS = [77] * 300_000
SPOKEN = "This model's maximum context length is 2048 tokens. However, your "

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/generate", {"prompt": HUGE}, "prompt"),
    ("/generate", {"prompt": HUGE, "stream": True}, "prompt"),
    ("/chat", {"messages": [USER]}, "messages"),
    ("/v1/chat/completions", {"messages": [USER], "n": 8}, "messages"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": HUGE}]}]},
        "messages",
    ),
    ("/v1/chat/completions", {"messages": [USER, {"role": "user", "content": "a"}]}, "messages"),
    ("/v1/completions", {"prompt": HUGE, "n": 128}, "prompt"),
    ("/v1/completions", {"prompt": ["a", HUGE], "stream": True}, "prompt"),
    ("/v1/completions", {"prompt": IDS}, "prompt"),
    ("/v1/completions", {"prompt": HUGE, "echo": True, "logprobs": 1}, "prompt"),
    ("/v1/completions", {"prompt": "a " * 2100}, "prompt"),
    ("/v1/completions", {"prompt": [77] * 2048}, "prompt"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a " * 2100}]}, "messages"),
    ("/v1/completions", {"prompt": "a", "max_tokens": 2049}, "max_tokens"),
]


@pytest.mark.parametrize("model", ["demo", "demo_onnx"])
@pytest.mark.parametrize(("path", "body", "param"), REFUSED)
def test_what_cannot_fit_is_refused_in_the_words_that_clients_know(
    server: TriadServer, path: str, body: dict[str, Any], param: str, model: str
) -> None:
    response = server.post(path, body | {"model": model})
    assert response.status_code == 400, response.text[:500]
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: {SPOKEN.removesuffix('your ')}")
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"prompt": HUGE}, "prompt"),
        ("/tokenize", {"messages": [USER]}, "messages"),
        ("/detokenize", {"tokens": [77] * 8193}, "prompt"),
        ("/attributions", {"prompt": HUGE}, "prompt"),
        ("/attributions", {"prompt": "a", "target": HUGE}, "target"),
    ],
)
def test_what_is_not_generated_from_has_limits_too(
    server: TriadServer, path: str, body: dict[str, Any], param: str
) -> None:
    response = server.post(path, body)
    assert response.status_code == 400, response.text[:500]
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_more_than_the_context_can_be_tokenised(server: TriadServer) -> None:
    body = server.post("/tokenize", {"prompt": "7" * 8192}).json()
    assert (body["count"], body["max_model_len"]) == (8192, 2048)
    text = server.post("/detokenize", {"tokens": body["tokens"]}).json()["prompt"]
    assert text == "7" * 8192
    refused = server.post("/tokenize", {"prompt": "7" * 8193}).json()["error"]
    assert "at most 8192 tokens, not 8193" in refused["message"]


def test_the_engine_refuses_by_itself_what_comes_straight_to_it(server: TriadServer) -> None:
    for inputs in ({"text_input": HUGE}, {"prompt_token_ids": IDS}):
        with pytest.raises(InferenceServerException) as refused:
            infer(server.grpc, "demo", **inputs)
        name = next(iter(inputs))
        message = str(refused.value.message())
        assert message.startswith(f"{name}: {SPOKEN}"), message[:300]
        assert message.endswith(" [context_length_exceeded]")


def test_nobody_waits_for_a_long_text(server: TriadServer) -> None:
    """Streams go on, short requests overtake it, and health checks are answered."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        body = {"prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True}
        with server.post("/generate", body, stream=True) as response:
            events = response.iter_lines()
            next(events)
            long = pool.submit(server.post, "/tokenize", {"prompt": LONG})
            wait_until(lambda: describe(server.grpc, "demo")["requests"] == 2)
            short = server.post("/generate", {"prompt": "Hi", "max_tokens": 3})
            assert short.ok
            for _ in range(6):
                assert next(events) or next(events)
            assert describe(server.grpc, "demo")["requests"] == 2
            assert not long.done()
        assert long.result().status_code == 400


def test_a_request_that_was_left_is_not_tokenised(server: TriadServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        first = [pool.submit(server.post, "/tokenize", {"prompt": LONG}) for _ in range(4)]
        wait_until(lambda: describe(server.grpc, "demo")["requests"] == 4)
        for _ in range(3):
            with pytest.raises(requests.Timeout):
                requests.post(f"{server.url}/tokenize", json={"prompt": LONG}, timeout=0.1)
        waiting = sum(not request.done() for request in first)
        assert waiting > 1
        wait_until(lambda: describe(server.grpc, "demo")["requests"] <= waiting, timeout=5)
        assert not first[-1].done() or not first[-2].done()
        assert {request.result().status_code for request in first} == {400}


def test_what_is_asked_about_a_model_is_answered_at_once(server: TriadServer) -> None:
    facts = describe(server.grpc, "demo")
    assert facts["tokenize_length"] == 4 * facts["context_length"]
    assert 1 < facts["characters_per_token"] < 200
    assert facts["chat"]["keeps_texts"] is True
    assert cancel(server.grpc, "demo", "nobody") == 0
