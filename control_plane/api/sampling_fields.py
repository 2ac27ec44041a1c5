"""The sampling parameters of `backends.contract.sampling` as fields of request bodies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, create_model

from backends.contract.sampling import PARAMETERS
from backends.sampling_parameters.kinds import (
    Boolean,
    Integer,
    Kind,
    Number,
    Strings,
    Text,
    TokenBiases,
    TokenIds,
)
from backends.sampling_parameters.parameter import Surface
from control_plane.api.body import Integral, StopStringList, TokenId

ModelT = TypeVar("ModelT", bound=BaseModel)


def _field_names(surface: Surface) -> Mapping[str, str]:
    return {
        (parameter.rest_name or name) if surface == "rest" else name: name
        for name, parameter in PARAMETERS.items()
        if surface in parameter.surfaces
    }


REST_FIELDS = _field_names("rest")
"""The fields of ``/generate`` and ``/chat``, each with its parameter."""
OPENAI_FIELDS = _field_names("openai")
"""The fields of ``/v1``, each with its parameter."""


def with_rest_fields(model: type[ModelT]) -> type[ModelT]:
    """Return the model with the parameters of ``/generate`` and ``/chat``, at their defaults."""
    return _with_fields(model, REST_FIELDS, _rest_field)


def with_openai_fields(model: type[ModelT]) -> type[ModelT]:
    """Return the model with the parameters of ``/v1``, null where a request leaves them out."""
    return _with_fields(model, OPENAI_FIELDS, _openai_field)


def _with_fields(
    model: type[ModelT],
    names: Mapping[str, str],
    field: Callable[[str], tuple[Any, Any]],
) -> type[ModelT]:
    """Return the model with a field for each parameter of which it has none of its own."""
    missing = [name for name in names if name not in model.model_fields]
    fields: dict[str, Any] = {name: field(names[name]) for name in missing}
    return create_model(
        model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields
    )


def _rest_field(name: str) -> tuple[Any, Any]:
    parameter = PARAMETERS[name]
    type_, description = _type(parameter.kind), parameter.description
    if parameter.default is None:
        return type_ | None, Field(None, description=description)
    if parameter.kind.type == "array":
        return type_, Field(default_factory=list, description=description)
    default = parameter.default if parameter.rest_default is None else parameter.rest_default
    return type_, Field(default, description=description)


def _openai_field(name: str) -> tuple[Any, Any]:
    parameter = PARAMETERS[name]
    type_ = _type(parameter.kind)
    if isinstance(parameter.kind, Strings):  # OpenAI's API takes one string, too
        type_ = Annotated[type_, BeforeValidator(_listed)]
    description = parameter.description
    if parameter.default not in (None, ()):
        description += f"; default: {json.dumps(parameter.default)}"
    return type_ | None, Field(None, description=description)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _type(kind: Kind) -> Any:  # noqa: ANN401
    """Return pydantic's type of a parameter's values in JSON."""
    match kind:
        case Integer(low=low, high=high):
            return Annotated[int, Field(ge=low, le=high), Integral]
        case Number(low=low, high=high):
            return Annotated[float, Field(ge=low, le=high)]
        case Boolean():
            return bool
        case Text(max_characters=None):
            return str
        case Text(max_characters=limit):
            return Annotated[str, Field(max_length=limit)]
        case Strings():
            return StopStringList
        case TokenIds(max_count=limit):
            return Annotated[list[TokenId], Field(max_length=limit, fail_fast=True)]
        case TokenBiases(bias=bias):
            number = Annotated[float, Field(ge=bias.low, le=bias.high)]
            return Annotated[dict[str, number], Field(fail_fast=True)]
        case _:
            return dict[str, Any]
