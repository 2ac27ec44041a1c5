"""The sampling parameters of `backends.contract.sampling` as options of the Python API."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import make_dataclass
from typing import Any, TypeVar

from backends.contract.sampling import PARAMETERS
from backends.contract.vllm_parameters import NO_EFFECT, STRUCTURE, UNSUPPORTED
from control_plane.errors import InvalidRequest

T = TypeVar("T")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

OPTIONS: Mapping[str, Any] = {
    name: parameter.default if parameter.rest_default is None else parameter.rest_default
    for name, parameter in PARAMETERS.items()
    if "python" in parameter.surfaces
}
"""The parameters that the Python API offers, each with its default, which is ``/generate``'s."""

DEFAULTS: Mapping[str, Any] = {
    name: default for name, default in OPTIONS.items() if default != PARAMETERS[name].default
}
"""The defaults that are not the engines' own, and have to be sent."""

_OTHER_NAMES = STRUCTURE.keys() | UNSUPPORTED.keys() | NO_EFFECT
"""Names of vLLM's, which engines take, or refuse if they ask for something."""


def require_offered(options: Mapping[str, Any]) -> None:
    """Raise `InvalidRequest` for a name that is no option of the Python API."""
    for name in options:
        if name in OPTIONS or name in _OTHER_NAMES:
            continue
        problem = f"is not known; known: {', '.join(sorted(OPTIONS))}"
        if name in PARAMETERS:
            problem = "is not returned by the Python API"
        raise InvalidRequest(f"{name[:64]}: {problem}", param=name[:64])


def with_options(function: FunctionT) -> FunctionT:
    """Have ``function``, which takes ``**options``, tell `help` and editors which there are."""
    own = inspect.signature(function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    named = [inspect.Parameter("model", keyword, default=None, annotation="str | None")]
    named += [
        inspect.Parameter(name, keyword, default=default, annotation=_hint(name))
        for name, default in OPTIONS.items()
    ]
    first = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = own.replace(parameters=first + named)  # type: ignore[attr-defined]
    return function


def with_option_fields(cls: type[T]) -> type[T]:
    """Return the dataclass with a field for each option, at its default."""
    fields: list[Any] = [(name, _hint(name), default) for name, default in OPTIONS.items()]
    made = make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True, slots=True, kw_only=True)
    made.__module__, made.__doc__ = cls.__module__, cls.__doc__
    return made


_HINTS = {
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "string": "str",
    "array": "Sequence[Any]",
    "object": "Mapping[str, Any]",
}


def _hint(name: str) -> str:
    parameter = PARAMETERS[name]
    hint = _HINTS[parameter.kind.type]
    return f"{hint} | None" if parameter.default is None else hint
