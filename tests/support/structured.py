"""Structured output through ``/generate``, with generated schemas."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema

from tests.support.schemas import Schema, generated_schemas
from tests.support.server import TriadServer

PROMPT = "Tell me about the capital of France."
SCHEMAS = generated_schemas(80)


def generate(server: TriadServer, model: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401
    defaults = {"model": model, "prompt": PROMPT, "max_tokens": 300, "temperature": 1.0}
    response = server.post("/generate", defaults | body)
    assert response.ok, response.text
    answer: dict[str, Any] = response.json()
    return answer


def answers_validate(server: TriadServer, model: str) -> None:
    """All schemas, 16 at once, in both spellings and with several ways to sample. Nearly all of the
    answers come to their end, and those that do keep to their schemas."""

    def ask(number: int) -> dict[str, Any]:
        schema: Schema = SCHEMAS[number]
        if number % 2:
            return generate(server, model, seed=number, guided={"json": schema})
        return generate(
            server,
            model,
            seed=number,
            **({"top_p": 0.95, "top_k": 50} if number % 4 else {}),
            response_format={"type": "json_schema", "json_schema": {"schema": schema}},
        )

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(len(SCHEMAS))))
    completed = 0
    for schema, answer in zip(SCHEMAS, answers, strict=True):
        if answer["finish_reason"] == "stop":
            completed += 1
            jsonschema.validate(json.loads(answer["text"]), schema, jsonschema.Draft202012Validator)
    assert completed >= 0.95 * len(SCHEMAS)


def chain(count: int) -> Schema:
    definitions = {
        f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}, "required": ["a"]}
        for i in range(count)
    }
    return {"$defs": definitions | {f"d{count}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def rules(count: int) -> str:
    lines = [f'r{i} ::= "a" r{i + 1} | "b" r{i + 1}' for i in range(count)]
    return "\n".join(["root ::= r0", *lines, f'r{count} ::= "z"'])


HOSTILE: list[dict[str, Any]] = [
    {"json": chain(1200)},
    {"grammar": rules(2000)},
    {"grammar": "root ::= " + "(" * 30_000},
    {"json": {"const": "x" * 120_000}},
    {"choice": ["a" * 100_000]},
    {"regex": "(a|aa){1000}{1000}"},
    {"json": {"enum": [[[[[i]]]] for i in range(16_000)]}},
    {"json": {"anyOf": [{"properties": {f"p{i}": {"const": i}}} for i in range(4000)]}},
    {"tool_calls": {"tools": [{"name": "f", "parameters": chain(1200)}]}},
    {"any_of": [{"json": chain(1200)}, {"regex": "a"}]},
]
"""Each would end a model's process that compiled it, or hold it up."""
