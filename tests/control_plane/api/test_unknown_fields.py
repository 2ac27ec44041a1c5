"""Fields that nobody knows: one rule on all routes that have bodies."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from control_plane.api.body import HEADER, MAX_HEADER_CHARACTERS, Body
from control_plane.api.openai.chat.routes import ChatCompletionRequest
from control_plane.app import create_app
from control_plane.settings import ServingSettings
from tests.conftest import ServerFactory
from tests.support.server import TriadServer

SCRIPT = json.dumps({"tokens": 2})
TEXT: dict[str, Any] = {"model": "scripted", "prompt": SCRIPT}
CHAT: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": SCRIPT}]}

BODIES: dict[str, dict[str, Any]] = {
    "/generate": TEXT,
    "/chat": CHAT,
    "/attributions": {"model": "demo", "prompt": "Hi", "target": "x"},
    "/tokenize": TEXT,
    "/detokenize": {"model": "demo", "tokens": [50]},
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/v1/embeddings": {"model": "scripted", "input": "Hi"},  # which is refused later
    "/profile": {"model": "scripted", "prompt": SCRIPT},  # with `profiling` alone
}
STREAMS = ["/generate", "/chat", "/v1/chat/completions", "/v1/completions"]


def test_no_route_is_forgotten() -> None:
    app = create_app(ServingSettings(profiling=True))
    bodies = {
        path: item["post"]["requestBody"]["content"]["application/json"]["schema"]
        for path, item in app.openapi()["paths"].items()
        if "requestBody" in item.get("post", {})
    }
    assert bodies.keys() == BODIES.keys()
    schemas = app.openapi()["components"]["schemas"]
    for schema in bodies.values():
        assert schemas[schema["$ref"].rpartition("/")[2]]["additionalProperties"] is True


@pytest.mark.parametrize("path", [path for path in BODIES if path != "/profile"])
def test_they_are_ignored_and_listed(server: TriadServer, path: str) -> None:
    unknown = {"a_new_one": {"x": [1]}, "b\r\nSet-Cookie: ü": 2, "of_null": None, "z" * 500: 3}
    response = server.post(path, BODIES[path] | unknown)
    assert response.ok or (path == "/v1/embeddings" and "no embeddings" in response.text)
    first, second, third = response.headers[HEADER].split(", ")
    assert (first, third) == ("a_new_one", "z" * 64)
    assert second == "b??Set-Cookie???"
    assert HEADER not in server.post(path, BODIES[path]).headers


@pytest.mark.parametrize("path", STREAMS)
def test_streams_list_them_too(server: TriadServer, path: str) -> None:
    response = server.post(path, BODIES[path] | {"stream": True, "a_new_one": 1})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers[HEADER] == "a_new_one"


def test_objects_in_a_body(server: TriadServer) -> None:
    options = {"include_usage": True, "include_obfuscation": True, "newer": 1}
    body = CHAT | {"stream": True, "stream_options": options}
    assert server.post("/v1/chat/completions", body).headers[HEADER] == "stream_options.newer"
    messages = [{"role": "user", "content": SCRIPT, "name": "ann"}]
    response = server.post("/chat", {"model": "scripted", "messages": messages})
    assert response.headers[HEADER] == "messages[0].name"


def test_the_header_is_bounded(server: TriadServer) -> None:
    names = {f"field_{number:03}": number for number in range(500)}
    listed = server.post("/generate", TEXT | names).headers[HEADER]
    assert len(listed) < MAX_HEADER_CHARACTERS + 20
    assert listed.startswith("field_000, field_001, ")
    *_, more = listed.split(", ")
    assert more == f"and {500 - listed.count('field_')} more"


# What clients send by themselves, and what is to be accepted in silence.
HARMLESS: dict[str, Any] = {
    **{"user": "me", "service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "s"},
    **{"priority": 1, "request_id": "r", "guided_decoding_backend": "xgrammar"},
    **{"length_penalty": 0.5, "early_stopping": True, "stream_interval": 3},
    **{"use_beam_search": False, "bad_words": [], "thinking_token_budget": -1, "best_of": 1},
    **{"kv_transfer_params": None, "vllm_xargs": None, "structural_tag": None, "suffix": None},
    **{"tools": None, "logprobs": None, "stop": None, "audio": None, "echo": None, "n": None},
}


@pytest.mark.parametrize("path", STREAMS)
def test_what_asks_for_nothing_is_accepted(server: TriadServer, path: str) -> None:
    response = server.post(path, BODIES[path] | HARMLESS)
    assert response.ok, response.text
    assert HEADER not in response.headers


@pytest.mark.parametrize("path", STREAMS)
def test_null_is_the_same_as_absent(server: TriadServer, path: str) -> None:
    schemas = create_app(ServingSettings()).openapi()
    schema = schemas["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = schemas["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
    response = server.post(path, dict.fromkeys(fields) | BODIES[path])
    assert response.ok, response.text


CHANGES: list[tuple[str, str, Any]] = [
    ("/generate", "stop", ["x"]),
    ("/generate", "logprobs", 3),
    ("/generate", "use_beam_search", True),
    ("/chat", "tools", [{}]),
    ("/chat", "n", 3),
    ("/v1/chat/completions", "grammar", 'root ::= "a"'),
    ("/v1/chat/completions", "web_search_options", {}),
    ("/v1/chat/completions", "typical_p", 0.5),
    ("/v1/chat/completions", "echo", True),
    ("/v1/completions", "suffix", "x"),
    ("/v1/completions", "logprob_token_ids", [5]),
    ("/v1/completions", "truncate_prompt_tokens", 5),
    ("/v1/embeddings", "add_special_tokens", False),
    ("/tokenize", "chat_template", "{{ messages }}"),
]


@pytest.mark.parametrize(("path", "field", "value"), CHANGES)
def test_what_would_change_the_answer_is_refused(
    server: TriadServer, path: str, field: str, value: object
) -> None:
    response = server.post(path, BODIES[path] | {field: value, "a_new_one": 1})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert error["message"].startswith(f"{field}: cannot be honoured")


def test_the_operator_may_have_them_refused(
    start_server: ServerFactory, server: TriadServer, tmp_path: Path
) -> None:
    strict = start_server(TRIAD_SERVING__UNKNOWN_FIELDS="refuse", TRIAD_SERVING__PROFILING="true")
    for path, body in BODIES.items():
        response = strict.post(path, body | {"modle": "x", "stream": False})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "modle"), path
        assert error["message"] == "modle: is not a known field; did you mean `model`?"
    options = {"stream": True, "stream_options": {"include_usages": True}}
    error = strict.post("/v1/completions", TEXT | options).json()["error"]
    assert error["param"] == "stream_options.include_usages"
    assert "did you mean `include_usage`?" in error["message"]
    for path in STREAMS:
        assert strict.post(path, BODIES[path] | HARMLESS).ok


def test_the_setting_is_one_of_two() -> None:
    with pytest.raises(ValidationError, match="unknown_fields"):
        ServingSettings(unknown_fields="allow")  # type: ignore[arg-type]


def test_many_of_them_cost_little() -> None:
    """No error is made for each; of more than there can be reason for, one is made for all."""
    fields = {f"field_{number}": number for number in range(300_000)}
    messages = [{"role": "user", "content": "x"}]
    began = time.process_time()
    with pytest.raises(ValidationError, match="at most 1000 fields, not 300001") as raised:
        ChatCompletionRequest.model_validate({"messages": messages, **fields})
    assert raised.value.error_count() == 1
    some = dict(list(fields.items())[:900])
    body: Body = ChatCompletionRequest.model_validate({"messages": messages, **some})
    assert len(body.model_extra or ()) == len(some)
    assert time.process_time() - began < 1.0


def test_tools_and_messages_pass_theirs_on() -> None:
    """To the chat template, but for those that are the server's."""
    function = {"name": "f", "parameters": {}, "return": {"type": "number"}, "strict": True}
    tool = {"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}
    message = {"role": "user", "content": "x", "opts": 3}
    body = ChatCompletionRequest.model_validate({"messages": [message], "tools": [tool]})
    prompt = body.prompt(body.choice_of_tools())
    assert prompt.messages == [message]
    del function["strict"]
    assert prompt.tools == [{"type": "function", "function": function}]
