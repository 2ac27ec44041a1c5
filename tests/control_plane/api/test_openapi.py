"""The OpenAPI document is valid, and says what is really sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from pydantic import BaseModel

from control_plane.api.openai.responses import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
)
from control_plane.api.schemas import (
    ChatResponse,
    ErrorBody,
    FinalEvent,
    GenerateResponse,
    HealthResponse,
    TextEvent,
)
from tests.support.server import TriadServer

Document = dict[str, Any]
CALL = '<think>hm</think>Let me see.<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture(scope="module")
def document(server: TriadServer) -> Document:
    made: Document = server.get("/openapi.json").json()
    return made


def test_the_document_is_valid(document: Document) -> None:
    validate(document)


def operations(document: Document) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_every_operation_documents_its_errors_and_no_422(document: Document) -> None:
    for _, path, operation in operations(document):
        statuses = operation["responses"].keys()
        assert "422" not in statuses, path
        assert {"200", "default"} <= statuses
        if "requestBody" in operation:
            assert {"400", "404", "413", "415", "429", "503"} <= statuses, path
    assert "404" in document["paths"]["/v1/models/{model_id}"]["get"]["responses"]
    assert "503" in document["paths"]["/health"]["get"]["responses"]
    assert "503" in document["paths"]["/health/ready"]["get"]["responses"]
    assert not [name for name in document["components"]["schemas"] if "HTTPValidation" in name]


def check(document: Document, path: str, status: str, kind: str, body: object) -> None:
    """That the body is what the document says, and nothing more."""
    method = "post" if "post" in document["paths"][path] else "get"
    response = document["paths"][path][method]["responses"][status]
    schema = response["content"][kind]["schema"]
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole).validate(body)


MODELS: dict[str, tuple[type[BaseModel], ...]] = {
    "/generate": (GenerateResponse, TextEvent, FinalEvent),
    "/chat": (ChatResponse, TextEvent, FinalEvent),
    "/v1/chat/completions": (ChatCompletion, ChatCompletionChunk),
    "/v1/completions": (Completion, CompletionChunk),
}


def fits(models: tuple[type[BaseModel], ...], body: dict[str, Any]) -> bool:
    """Whether one of them has all keys of the body."""
    for model in models:
        try:
            model.model_validate(body, extra="forbid")
        except ValueError:
            continue
        return True
    return False


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"prompt": "Hi", "max_tokens": 3}),
    ("/chat", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}),
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 3}),
    (
        "/v1/completions",
        {"prompt": ["Hi", "x"], "logprobs": 2, "echo": True, "return_token_ids": True},
    ),
    ("/v1/completions", {"prompt": "Hi", "prompt_logprobs": 1, "max_tokens": 3}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "Hi"}],
            **{"logprobs": True, "top_logprobs": 2, "n": 2, "return_token_ids": True},
        },
    ),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Hi"}], "prompt_logprobs": 0},
    ),
    (
        "/v1/chat/completions",
        {
            "model": "scripted_chat",
            "messages": [{"role": "user", "content": json.dumps({"text": CALL})}],
            "tools": TOOLS,
        },
    ),
]


@pytest.mark.parametrize(("path", "asked"), ASKED)
def test_what_is_sent_is_what_is_documented(
    server: TriadServer, document: Document, path: str, asked: dict[str, Any]
) -> None:
    answer = server.post(path, {"max_tokens": 40} | asked)
    assert answer.ok, answer.text
    check(document, path, "200", "application/json", answer.json())
    assert fits(MODELS[path][:1], answer.json()), answer.text
    if "prompt_logprobs" in asked:
        return
    usage = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    for options in [{}] if path in ("/generate", "/chat") else [{}, usage]:
        streamed = server.post(path, {"max_tokens": 40} | asked | {"stream": True} | options)
        events = [block.removeprefix("data: ") for block in streamed.text.split("\n\n")[:-1]]
        if path.startswith("/v1"):
            assert events.pop() == "[DONE]"
        assert len(events) > 1
        for event in map(json.loads, events):
            check(document, path, "200", "text/event-stream", event)
            assert fits(MODELS[path][1:], event), event


def test_errors_and_other_bodies(server: TriadServer, document: Document) -> None:
    for path in MODELS:
        answer = server.post(path, {})
        assert answer.status_code == 400
        check(document, path, "400", "application/json", answer.json())
        assert fits((ErrorBody,), answer.json())
    script = {"prompt": json.dumps({"fail_at": 1, "tokens": 3}), "model": "scripted"}
    *_, last = server.post("/generate", script | {"stream": True}).text.split("\n\n")[:-1]
    check(document, "/generate", "200", "text/event-stream", json.loads(last[6:]))
    answer = server.get("/v1/models/nobody")
    assert answer.status_code == 404
    check(document, "/v1/models/{model_id}", "404", "application/json", answer.json())
    for path in ("/health", "/models", "/stats", "/v1/models", "/tokenizer_info"):
        check(document, path, "200", "application/json", server.get(path).json())
    assert fits((HealthResponse,), server.get("/health").json())


def test_request_bodies_that_the_document_allows_are_taken(
    server: TriadServer, document: Document
) -> None:
    for path, asked in ASKED:
        body = document["paths"][path]["post"]["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(asked)
    schema = document["components"]["schemas"]["CompletionRequest"]
    whole = Draft202012Validator({**schema, "components": document["components"]})
    prompt: Any
    for prompt in ("", 5, [], [[]], [-1], ["x", 5], {}):
        assert not whole.is_valid({"prompt": prompt}), prompt
        assert server.post("/v1/completions", {"prompt": prompt}).status_code == 400
