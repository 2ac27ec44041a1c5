"""``POST /v1/embeddings``, of text encoders.

https://platform.openai.com/docs/api-reference/embeddings; ``truncate_prompt_tokens`` is vLLM's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from backends.contract.names import INPUT_IDS, TRUNCATE_TOKENS
from control_plane.api.body import (
    IN_ANY_REQUEST,
    UNSCHEDULED,
    Body,
    Integral,
    Unsupported,
    settle_unknown_fields,
)
from control_plane.api.dependencies import ServicesDep, charged, estimated_tokens
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.openai.fields import TOKEN_IDS_SCHEMA, are_token_ids
from control_plane.errors import InvalidRequest
from control_plane.inference.prompts import TokenIds
from control_plane.validation import check_request

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

MAX_ROWS = 2048
Rows: TypeAlias = list[str] | list[list[int]]


def _rows(value: object) -> Rows:
    """Raises `ValueError`."""
    rows: list[Any] = value if isinstance(value, list) else [value]
    if isinstance(value, list) and are_token_ids(rows):
        rows = [rows]
    if not 1 <= len(rows) <= MAX_ROWS:
        raise ValueError(f"must hold from 1 to {MAX_ROWS} elements, not {len(rows)}")
    if all(isinstance(row, str) for row in rows) or all(map(are_token_ids, rows)):
        return rows
    raise ValueError(
        "must be a string, a list of strings, a list of token ids, or a list of such lists, with "
        "token ids from 0 to 2147483647"
    )


_LISTS = [
    {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_ROWS}
    for items in ({"type": "string"}, TOKEN_IDS_SCHEMA)
]
Input = Annotated[
    Rows,
    PlainValidator(_rows),
    WithJsonSchema({"anyOf": [{"type": "string"}, TOKEN_IDS_SCHEMA, *_LISTS]}),
]


class EmbeddingRequest(Body):
    no_effect = IN_ANY_REQUEST | UNSCHEDULED
    unsupported: ClassVar[Unsupported] = {
        "add_special_tokens": (True,),
        "embed_dtype": ("float32",),
        "endianness": ("native", "little"),
        "normalize": (True,),
        "truncation_side": ("right",),
        "use_activation": (True,),
    }

    model: str | None = Field(None, description="The default model where absent")
    input: Input = Field(
        description="A text, or several; or the token ids of one or several, which are taken as "
        "they are"
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Integral] | None = Field(
        None, description="So many of a vector's first numbers, scaled to length 1"
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=-(2**31), le=2**31 - 1), Integral] | None = (
        Field(None, description="Cut texts at so many tokens; -1: at as many as the model takes")
    )
    truncate: Literal["NONE", "END"] = Field(
        "NONE", description="NVIDIA's: END is a `truncate_prompt_tokens` of -1"
    )

    @property
    def cut(self) -> int | None:
        """Tokens of each text that are taken at most; -1: as many as the model takes."""
        if self.truncate_prompt_tokens is None and self.truncate == "END":
            return -1
        return self.truncate_prompt_tokens


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


_RENAMED = {
    "prompt": "input",
    INPUT_IDS: "input",
    TRUNCATE_TOKENS: "truncate_prompt_tokens",
}
"""Fields of the contract that have another name here."""


@router.post("/v1/embeddings", response_model=EmbeddingResponse, responses=documented_errors())
async def embeddings(body: EmbeddingRequest, request: Request, services: ServicesDep) -> Response:
    """Return a vector for each text."""
    settle_unknown_fields(body, request)
    model = services.catalog.embedding_model(body.model)
    try:
        rows = [row if isinstance(row, str) else TokenIds(row) for row in body.input]
        for row in rows:
            check_request(services.settings.validation, row, max_tokens=0)
        work = services.embedding.embed(
            model,
            request.state.request_id,
            body.input,
            truncate=body.cut,
            dimensions=body.dimensions,
        )
        made = await charged(request, work, estimated_tokens(*rows), lambda made: made.tokens)
    except InvalidRequest as error:
        raise _renamed(error) from None
    written = _WRITTEN[body.encoding_format]
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": written(vector)}
            for index, vector in enumerate(made.vectors)
        ],
        "model": model.served_name,
        "usage": {"prompt_tokens": made.tokens, "total_tokens": made.tokens},
    }
    return Response(
        orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
    )


_WRITTEN: dict[str, Callable[[NDArray[np.float32]], object]] = {
    "float": lambda vector: vector,
    # Little-endian FP32, as OpenAI's own client reads it.
    "base64": lambda vector: base64.b64encode(vector.astype("<f4").tobytes()).decode(),
}


def _renamed(error: InvalidRequest) -> InvalidRequest:
    name = _RENAMED.get(error.param or "")
    return error if name is None else error.renamed(name)
