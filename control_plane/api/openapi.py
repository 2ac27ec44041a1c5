"""The OpenAPI document: what FastAPI makes of the routes, and the events of streams.

A stream is documented as OpenAI documents theirs: the schema below `text/event-stream` is that of
the JSON in each event's data. OpenAPI 3.2 has a keyword for it, `itemSchema`, which validators and
generators of 3.1 refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from control_plane.api import body
from control_plane.api.openai.responses import ChatCompletionChunk, CompletionChunk
from control_plane.api.schemas import ErrorBody, FinalEvent, TextEvent

_EVENTS: Mapping[str, tuple[type[BaseModel], ...]] = {
    "/generate": (TextEvent, FinalEvent, ErrorBody),
    "/chat": (TextEvent, FinalEvent, ErrorBody),
    "/v1/chat/completions": (ChatCompletionChunk, ErrorBody),
    "/v1/completions": (CompletionChunk, ErrorBody),
}
_DESCRIPTION = (
    "With `stream: true` a stream of events. The data of each is one of these; an error is the "
    "last one. Streams of `/v1` end with the data `[DONE]`, which is no JSON."
)
_REFERENCE = "#/components/schemas/{model}"


def install(app: FastAPI) -> None:
    made_by_fastapi = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = made_by_fastapi()
            _add_events(made)
            _add_header(made)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _add_events(document: dict[str, Any]) -> None:
    models = {model for models in _EVENTS.values() for model in models}
    in_order = sorted(models, key=lambda model: model.__name__)
    names, definitions = models_json_schema(
        [(model, "serialization") for model in in_order], ref_template=_REFERENCE
    )
    schemas = document["components"]["schemas"]
    for name, schema in definitions["$defs"].items():
        schemas.setdefault(name, schema)
    for path, events in _EVENTS.items():
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        content["text/event-stream"] = {
            "schema": {
                "description": _DESCRIPTION,
                "oneOf": [names[model, "serialization"] for model in events],
            }
        }


def _add_header(document: dict[str, Any]) -> None:
    """Add the header of ignored fields to the responses of routes that have bodies."""
    header = {
        "description": "Fields of the request that are not known, and were ignored",
        "schema": {"type": "string"},
    }
    for path in document["paths"].values():
        if "requestBody" in path.get("post", {}):
            path["post"]["responses"]["200"].setdefault("headers", {})[body.HEADER] = header
