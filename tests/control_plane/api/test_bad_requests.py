"""Every bad request gets the documented error and leaves the server answering."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.support.server import TriadServer

PROMPT = json.dumps({"tokens": 2})
SCRIPT = {"model": "scripted", "prompt": PROMPT}
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": PROMPT}]}


def assert_error(response: requests.Response, status: int, kind: str, param: str | None) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["request_id"] == response.headers["X-Request-Id"]
    error = body["error"]
    assert (error["type"], error["param"]) == (kind, param)
    assert error["code"] in (status, "context_length_exceeded")
    assert len(error["message"]) < 700
    return str(error["message"])


# (field, value, what the message has to say)
FIELDS: list[tuple[str, Any, str]] = [
    ("prompt", "", "at least 1 character"),
    ("prompt", 7, "valid string"),
    ("prompt", None, "required"),
    ("prompt", ["a"], "valid string"),
    ("max_tokens", 0, "greater than or equal to 1"),
    ("max_tokens", -1, "greater than or equal to 1"),
    ("max_tokens", 10**6, "from 1 to"),  # beyond the demo model's context
    ("max_tokens", 10**30, "less than or equal to"),
    ("max_tokens", "512", "valid integer"),
    ("max_tokens", 1.5, "valid integer"),
    ("max_tokens", True, "valid integer"),
    ("temperature", -0.1, "greater than or equal to 0"),
    ("temperature", 101, "less than or equal to 100"),
    ("temperature", "hot", "valid number"),
    ("temperature", float("nan"), "finite number"),
    ("temperature", float("inf"), "finite number"),
    ("top_p", -0.1, "greater than or equal to 0"),
    ("top_p", 1.1, "less than or equal to 1"),
    ("top_k", -2, "greater than or equal to -1"),
    ("top_k", 2.5, "valid integer"),
    ("min_p", 2, "less than or equal to 1"),
    ("repetition_penalty", 0, "greater than or equal to 0.01"),
    ("presence_penalty", 3, "less than or equal to 2"),
    ("frequency_penalty", -3, "greater than or equal to -2"),
    ("stop_sequences", "stop", "valid list"),
    ("stop_sequences[0]", [""], "at least 1 character"),
    ("stop_sequences[1]", ["a", 3], "valid string"),
    ("stop_sequences", ["x"] * 257, "at most 256 items"),
    ("min_tokens", 1000, "at most max_tokens"),
    ("allowed_token_ids", [5000], "from 0 to 2047"),
    ("stop", ["x"], "cannot be honoured"),
    ("n", 2, "cannot be honoured"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", "one", "valid integer"),
    ("stream", "yes", "valid boolean"),
    ("metadata", "me", "valid dictionary"),
    ("model", 5, "valid string"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("param", "value", "says"), FIELDS)
def test_a_bad_field_is_named(
    server: TriadServer, param: str, value: object, says: str, stream: bool
) -> None:
    field = param.partition("[")[0]
    body = {"model": "demo", "prompt": "Hello", "stream": stream} | {field: value}
    response = requests.post(
        f"{server.url}/generate",
        data=json.dumps(body),  # requests' own encoder refuses NaN
        headers={"Content-Type": "application/json"},
        timeout=10,
    )
    message = assert_error(response, 400, "invalid_request_error", param)
    assert message.startswith(f"{param}: ")
    assert says in message


MESSAGES: list[tuple[str, Any]] = [
    ("messages", []),
    ("messages", "hello"),
    ("messages[0]", ["hello"]),
    ("messages[0].role", [{"role": "robot", "content": "hello"}]),
    ("messages[0].role", [{"content": "hello"}]),
    ("messages[0].content", [{"role": "user"}]),
    ("messages[0].content", [{"role": "user", "content": 5}]),
]


@pytest.mark.parametrize(("param", "value"), MESSAGES)
def test_bad_messages_are_named(server: TriadServer, param: str, value: object) -> None:
    response = server.post("/chat", {"model": "demo", "messages": value})
    assert_error(response, 400, "invalid_request_error", param)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON object"),
        (b"{", "not valid JSON"),
        (b'{"prompt": "a",}', "not valid JSON"),
        (b'{"prompt": "\xff\xfe"}', "not valid UTF-8"),
        (b"[1, 2]", "JSON object"),
        (b'"prompt"', "JSON object"),
        (b"null", "JSON object"),
    ],
)
def test_a_bad_body(server: TriadServer, body: bytes, says: str) -> None:
    response = requests.post(
        f"{server.url}/generate",
        data=body,
        headers={"Content-Type": "application/json"},
        timeout=10,
    )
    assert says in assert_error(response, 400, "invalid_request_error", None)


def test_a_missing_field_is_named(server: TriadServer) -> None:
    assert_error(server.post("/generate", {}), 400, "invalid_request_error", "prompt")
    assert_error(server.post("/chat", {}), 400, "invalid_request_error", "messages")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit(server: TriadServer, declared: bool) -> None:
    body = json.dumps({"prompt": "x" * 10_000_000}).encode()
    chunks = (body[i : i + 65536] for i in range(0, len(body), 65536))
    response = requests.post(
        f"{server.url}/generate",
        data=body if declared else chunks,  # an iterator is sent with chunked encoding
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    assert_error(response, 413, "payload_too_large", None)


@pytest.mark.parametrize("path", ["/generate", "/chat"])
def test_an_unknown_model(server: TriadServer, path: str) -> None:
    body = {**(SCRIPT if path == "/generate" else CHAT), "model": "nobody"}
    message = assert_error(server.post(path, body), 404, "model_not_found", "model")
    assert "demo" in message
    assert "scripted" in message
    assert_error(server.post(path, body | {"model": ""}), 404, "model_not_found", "model")


def test_a_prompt_over_the_context(server: TriadServer) -> None:
    long = "word " * 4000
    response = server.post("/generate", {"model": "demo", "prompt": long})
    message = assert_error(response, 400, "invalid_request_error", "prompt")
    assert "This model's maximum context length is 2048 tokens. However, your prompt" in message
    assert response.json()["error"]["code"] == "context_length_exceeded"
    chat = {"model": "demo", "messages": [{"role": "user", "content": long}]}
    assert_error(server.post("/chat", chat), 400, "invalid_request_error", "messages")


def test_unknown_routes_and_methods(server: TriadServer) -> None:
    assert_error(server.get("/nowhere"), 404, "not_found", None)
    assert_error(server.get("/generate"), 405, "method_not_allowed", None)


def test_the_server_still_answers(server: TriadServer) -> None:
    response = server.post("/generate", SCRIPT)
    assert response.json()["text"] == "0 1 "
    assert server.gauge("triad_requests_running") == 0
