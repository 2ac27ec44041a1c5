"""Structured output and forced calls on real engines: OpenAI's fields for it, and vLLM's."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import jsonschema
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
MODELS = ["demo", "demo_onnx"]


class City(BaseModel):
    name: str = Field(max_length=20)
    continent: Literal["Europe", "Asia"]


class Answer(BaseModel):
    cities: list[City] = Field(max_length=2)


@pytest.mark.parametrize("model", MODELS)
def test_parsed_answers(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Answer, max_tokens=400, seed=1
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Answer)


@pytest.mark.parametrize("stream", [False, True])
def test_any_json_object(client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": 500, "seed": 4}
    answer: Any = client.chat.completions.create(
        response_format={"type": "json_object"}, stream=stream, **asked
    )
    if stream:
        choices = [choice for chunk in answer for choice in chunk.choices]
        text = "".join(choice.delta.content or "" for choice in choices)
    else:
        choices, text = answer.choices, answer.choices[0].message.content
    assert text.startswith("{")
    if choices[-1].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "extra",
    [
        {"guided_choice": ["yes", "no"]},
        {"guided_regex": "(yes|no)"},
        {"guided_grammar": 'root ::= "yes" | "no"'},
        {"guided_json": {"enum": ["yes", "no"]}},
        {"guided_json": '{"enum": ["yes", "no"]}'},
        {"structured_outputs": {"choice": ["yes", "no"], "regex": None}},
        {"structured_outputs": {"json": '{"enum": ["yes", "no"]}'}},
    ],
)
def test_vllms_fields(client: OpenAI, extra: dict[str, Any]) -> None:
    for route in ("chat", "text"):
        text: str | None
        if route == "chat":
            whole = client.chat.completions.create(
                model="demo", messages=MESSAGES, extra_body=extra
            )
            text = whole.choices[0].message.content
        else:
            text = (
                client.completions.create(model="demo", prompt="?", extra_body=extra)
                .choices[0]
                .text
            )
        assert re.fullmatch(r'\s*"?(yes|no)"?\s*', text or ""), text


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "b"}}])
def test_forced_calls_fit_their_schemas(client: OpenAI, model: str, choice: Any) -> None:  # noqa: ANN401
    """Definitions of the same name in two tools are not mixed up."""
    schemas = {
        name: {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/X"}},
            "required": ["x"],
            "additionalProperties": False,
            "$defs": {"X": definition},
        }
        for name, definition in (("a", {"enum": [1, 2]}), ("b", {"enum": ["c", "d"]}))
    }
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in schemas.items()
    ]
    for seed in range(4):
        answer = client.chat.completions.create(
            model=model,
            messages=MESSAGES,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=False,
            max_tokens=120,
            seed=seed,
        )
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
        assert choice == "required" or call.function.name == "b"
