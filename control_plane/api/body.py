"""Request bodies, and the fields in them that nobody knows.

One rule holds on all routes. Null is the same as absent. A field that would change the answer and
cannot be honoured is an error that names it, unless its value asks for nothing. A field that is
known to change nothing is accepted. Any other is ignored, and listed in the response's header
`x-triad-ignored-fields`, or with the setting ``unknown_fields: refuse`` an error as well.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, TypeAlias

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from backends.contract.errors import InvalidField
from backends.contract.sampling import MAX_STOP_STRINGS
from backends.contract.vllm_parameters import NO_EFFECT, require_neutral
from control_plane.api.json_body import require_few_fields
from control_plane.errors import InvalidRequest
from control_plane.settings import ServingSettings

HEADER = "x-triad-ignored-fields"
MAX_HEADER_CHARACTERS = 512
MAX_NAMES = 32
MAX_NAME_CHARACTERS = 64
MAX_INT = 2**31 - 1


def _integral(value: object) -> object:
    """JSON has one kind of number: 16.0 is an integer as well."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integral = BeforeValidator(_integral)
Count = Annotated[int, Field(ge=0, le=MAX_INT), Integral]
Positive = Annotated[int, Field(ge=1, le=MAX_INT), Integral]
TopK = Annotated[int, Field(ge=-1, le=MAX_INT), Integral]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT)]
StopString = Annotated[str, Field(min_length=1, max_length=1024)]
StopStringList = Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)]


Unsupported: TypeAlias = Mapping[str, tuple[object, ...]]
"""Fields that would change the answer and cannot be honoured, with the values that ask for
nothing."""


class Body(BaseModel):
    """A request's body, or an object in one.

    Strict: "512" is not a number. NaN is not JSON, but Python's parser takes it.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    no_effect: ClassVar[frozenset[str]] = frozenset()
    """Fields that change nothing in the answer."""
    unsupported: ClassVar[Unsupported] = {}

    _few_fields = model_validator(mode="before")(require_few_fields)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: object) -> object:
        if isinstance(values, dict) and None in values.values():
            return {name: value for name, value in values.items() if value is not None}
        return values


def settle_unknown_fields(body: Body, request: Request) -> None:
    """Applies the rule, once for each request. Raises `InvalidRequest`."""
    settings: ServingSettings = request.app.state.services.settings
    ignored: list[str] = []
    count = 0
    for path, part in _parts(body):
        extra = part.model_extra or {}
        for name in [name for name in extra if name in part.unsupported]:
            _require_neutral(path + name, extra[name], part.unsupported[name])
        unknown = [n for n in extra if n not in part.no_effect and n not in part.unsupported]
        if unknown and settings.unknown_fields == "refuse":
            field = path + _shown(unknown[0])
            problem = f"is not a known field{_nearest(unknown[0], part)}"
            raise InvalidRequest(f"{field}: {problem}", param=field)
        count += len(unknown)
        if len(ignored) < MAX_NAMES:
            ignored += [path + _shown(name) for name in unknown[:MAX_NAMES]]
    if count:
        request.state.response_headers[HEADER] = _header(ignored, count)


def _parts(body: Body, path: str = "") -> Iterator[tuple[str, Body]]:
    """Yield the body and the objects in it, each with the path to it."""
    if body.model_extra:
        yield path, body
    for name, value in body.__dict__.items():
        if isinstance(value, Body):
            yield from _parts(value, f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Body):
            for number, item in enumerate(value):
                yield from _parts(item, f"{path}{name}[{number}].")


def _shown(name: str) -> str:
    """Return a client's word in a form that is fit for a message and for a header."""
    return re.sub(r"[^A-Za-z0-9_.-]", "?", name[:MAX_NAME_CHARACTERS])


def _require_neutral(path: str, value: object, neutral: tuple[object, ...]) -> None:
    try:
        require_neutral(path, value, neutral)
    except InvalidField as error:
        raise InvalidRequest(str(error), param=path) from None


def _nearest(name: str, body: Body) -> str:
    near = difflib.get_close_matches(name[:MAX_NAME_CHARACTERS], type(body).model_fields, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _header(fields: list[str], count: int) -> str:
    """Return the header's value: as many of the fields as there is room for, and the number of
    the rest."""
    listed, length = 0, 0
    for field in fields[:MAX_NAMES]:
        length += len(field) + len(", ")
        if length > MAX_HEADER_CHARACTERS:
            break
        listed += 1
    more = [f"and {count - listed} more"] if count > listed else []
    return ", ".join([*fields[:listed], *more])


IN_ANY_REQUEST = NO_EFFECT | {
    "user",
    "request_id",
    "session_id",
    "cache_salt",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prediction",
    "guided_decoding_backend",
}
"""What clients of OpenAI's and vLLM's APIs send, and what changes no answer."""

UNSCHEDULED = frozenset({"priority", "service_tier"})
"""What changes nothing where no engine's queue is waited in."""
