"""Every route refuses what is wrong with a body as a whole, in one way, and lives on."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import requests

from control_plane.api.json_route import JsonRoute
from control_plane.app import create_app
from control_plane.settings import ServingSettings
from tests.support.raw_http import exchange, post
from tests.support.server import TriadServer

MESSAGES = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "x", "max_tokens": 1},
    "/chat": {"messages": MESSAGES, "max_tokens": 1},
    "/attributions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/completions": {"prompt": "x", "max_tokens": 1},
    "/v1/embeddings": {"input": "x"},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [5]},
}
HALF = "a \ud83d"
"""JavaScript's clients cut texts in the middle of an emoji."""


def nested(levels: int) -> Any:  # noqa: ANN401
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def send(
    server: TriadServer, path: str, body: object, *headers: bytes
) -> tuple[int, dict[str, Any]]:
    request = post(path, json.dumps(body).encode(), b"Connection: close", *headers)
    answer = exchange(server.port, request)
    return answer.status, json.loads(answer.body)


def assert_named(server: TriadServer, path: str, body: object, param: str, says: str) -> None:
    status, answer = send(server, path, body)
    assert status == 400, answer
    error = answer["error"]
    assert (error["param"] or "").startswith(param), error
    assert says in error["message"], error
    assert len(error["message"]) < 400


def test_every_route_with_a_body_has_it_checked() -> None:
    paths = create_app(ServingSettings(profiling=True)).openapi()["paths"]
    assert {path for path, methods in paths.items() if "post" in methods} == {*BODIES, "/profile"}
    from control_plane.api import attributions, generate, profile
    from control_plane.api.openai import routers

    for router in (generate.router, attributions.router, profile.router, *routers):
        for route in router.routes:
            if getattr(route, "body_field", None) is not None:
                assert isinstance(route, JsonRoute), route


@pytest.mark.parametrize("path", BODIES)
def test_what_no_field_may_hold(server: TriadServer, path: str) -> None:
    good, field = BODIES[path], next(iter(BODIES[path]))
    assert_named(server, path, good | {"model": HALF}, "model", "half of a surrogate pair")
    assert_named(server, path, good | {field: [HALF]}, f"{field}[0]", "half of a surrogate pair")
    assert_named(server, path, good | {field: nested(80)}, f"{field}.a.a", "more than 64 levels")
    assert_named(server, path, good | {field: nested(900)}, f"{field}.a.a", "more than 64 levels")
    assert_named(server, path, good | {"other": float("nan")}, "other", "finite number")
    assert_named(server, path, good | {field: [0] * 400_000}, field, "too much in it")
    assert_named(server, path, {f"k{n}": 0 for n in range(1001)}, "", "at most 1000 fields")


PLACES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        "messages[0].content",
        {"messages": [{"role": "user", "content": HALF}]},
    ),
    (
        "/v1/chat/completions",
        "messages[0].content[0].text",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
    ),
    (
        "/v1/chat/completions",
        "messages[0].content[0].type",
        {"messages": [{"role": "user", "content": [{"type": HALF}]}]},
    ),
    ("/v1/chat/completions", "messages[0].name", {"messages": [MESSAGES[0] | {"name": HALF}]}),
    (
        "/v1/chat/completions",
        "messages[0].extra.deep[1]",
        {"messages": [MESSAGES[0] | {"extra": {"deep": [0, HALF]}}]},
    ),
    (
        "/v1/chat/completions",
        "tools[0].function.name",
        {"tools": [{"type": "function", "function": {"name": HALF}}]},
    ),
    (
        "/v1/chat/completions",
        "tools[0].function.parameters",
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {HALF: 1}}}]},
    ),
    (
        "/v1/chat/completions",
        "tool_choice.function.name",
        {"tool_choice": {"type": "function", "function": {"name": HALF}}},
    ),
    ("/v1/chat/completions", "chat_template_kwargs.a", {"chat_template_kwargs": {"a": HALF}}),
    ("/v1/chat/completions", "metadata.a", {"metadata": {"a": HALF}}),
    ("/v1/completions", "prompt[1]", {"prompt": ["a", HALF]}),
    ("/v1/completions", "stop[0]", {"stop": [HALF]}),
    ("/v1/embeddings", "input[1]", {"input": ["a", HALF]}),
    ("/attributions", "target", {"target": HALF}),
    ("/chat", "messages[0].content", {"messages": [{"role": "user", "content": HALF}]}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "param", "fields"), PLACES)
def test_half_of_a_surrogate_pair(
    server: TriadServer, path: str, param: str, fields: dict[str, Any], stream: bool
) -> None:
    body = BODIES[path] | fields | ({"stream": True} if stream else {})
    assert_named(server, path, body, param, "half of a surrogate pair")


def test_large_integers_reach_the_template_and_the_grammar(server: TriadServer) -> None:
    """JSON has integers of any size, and schemas use them: a bound of 64 bits, for one."""
    schema = {"type": "integer", "minimum": 0, "maximum": 2**64}
    parameters = {
        "type": "object",
        "properties": {"id": schema},
        "required": ["id"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "f"}}
    body = {"model": "demo", "messages": MESSAGES, "tools": [tool], "tool_choice": choice}
    answer = server.post("/v1/chat/completions", body).json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert 0 <= json.loads(call["function"]["arguments"])["id"] <= 2**64
    message = MESSAGES[0] | {"x": 10**30}
    counted = server.post("/tokenize", {"model": "demo", "messages": [message]})
    assert counted.status_code == 200
    options = {"chat_template_kwargs": {"x": -(10**30)}}
    assert server.post("/tokenize", {"messages": MESSAGES, **options}).status_code == 200


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Encoding", "gzip"),
        ("Content-Encoding", "gzip, identity"),
        ("Content-Encoding", "br"),
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Type", "multipart/form-data; boundary=x"),
        ("Content-Type", ""),
    ],
)
def test_a_body_of_another_kind(server: TriadServer, path: str, name: str, value: str) -> None:
    data = json.dumps(BODIES[path]).encode()
    headers = {"Content-Type": "application/json", name: value}
    body = gzip.compress(data) if "gzip" in value else data
    refused = requests.post(f"{server.url}{path}", data=body, headers=headers, timeout=10)
    assert refused.status_code == 415
    error = refused.json()["error"]
    assert error["type"] == "unsupported_media_type"
    assert error["message"].startswith(f"{name.lower()}: ")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/x+json"])
def test_kinds_of_json(server: TriadServer, kind: str) -> None:
    data = json.dumps({"model": "scripted", "prompt": '{"tokens": 1}'})
    headers = {"Content-Type": kind, "Content-Encoding": "identity"}
    answer = requests.post(f"{server.url}/generate", data=data, headers=headers, timeout=10)
    assert answer.json()["text"] == "0 "


def test_a_length_of_many_digits(server: TriadServer) -> None:
    body = json.dumps({"model": "scripted", "prompt": '{"tokens": 1}'}).encode()
    request = post("/generate", body, b"Connection: close")
    for length, status in ((b"0" * 5000 + b"%d" % len(body), 200), (b"0" * 50 + b"9" * 15, 413)):
        lengthy = request.replace(b"Content-Length: %d" % len(body), b"Content-Length: " + length)
        assert exchange(server.port, lengthy).status == status


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/models", "/v1/models", "/v1/models/demo", "/stats"]
)
def test_head_is_get_without_a_body(server: TriadServer, path: str) -> None:
    """https://www.rfc-editor.org/rfc/rfc9110#section-9.3.2"""
    head, get = requests.head(f"{server.url}{path}", timeout=10), server.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert abs(int(head.headers["Content-Length"]) - len(get.content)) < 20  # figures change
    assert head.headers["X-Request-Id"]


def test_head_of_what_is_not_there(server: TriadServer) -> None:
    assert requests.head(f"{server.url}/nothing", timeout=10).status_code == 404
    assert requests.head(f"{server.url}/generate", timeout=10).status_code == 405


def test_a_slash_behind_models_is_the_list(server: TriadServer) -> None:
    assert server.get("/v1/models/").json() == server.get("/v1/models").json()


def test_an_unknown_model_is_told_those_that_are_loaded(server: TriadServer) -> None:
    """The repository has more, which are nobody's business."""
    message = server.post("/generate", {"model": "x", "prompt": "x"}).json()["error"]["message"]
    loaded = {model["name"] for model in server.get("/models").json()["models"] if model["loaded"]}
    assert set(message.partition("; models: ")[2].split(", ")) == loaded


def test_metadata_is_logged_in_brief(server: TriadServer) -> None:
    wide = {f"key{number}": number for number in range(50_000)}
    deep = nested(50)
    for metadata in (wide, deep, {"text": "x" * 3_000_000}, {"user": "ann"}):
        before = server.log.stat().st_size
        body = {"model": "scripted", "prompt": '{"tokens": 1}', "metadata": metadata}
        answer = server.post("/generate", body | {"stream": True})
        assert '"final":true' in answer.text
        assert server.log.stat().st_size - before < 1000
    assert "'user': 'ann'" in server.log.read_text()


def test_nothing_of_it_was_a_defect(server: TriadServer) -> None:
    assert "Traceback" not in server.log.read_text()
    assert "control_plane.api.errors" not in server.log.read_text()
