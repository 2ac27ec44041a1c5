"""Injected faults: models that fail as a request says, so that each error is seen to arrive.

A model's class derives from `FaultyModel`, or from `FaultyEncoder` (in `faulty_encoder`), and from
the class of the engine that is to fail::

    class TritonPythonModel(FaultyModel, EngineModel): ...
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from backends.contract import errors
from backends.contract.errors import ContextExceeded, EngineError, InvalidField
from backends.engine import Engine, EngineRequest
from backends.serving.model import ModelOptions, ServedModel

TEXT = "an injected fault"
FIELD = "max_tokens"  # of those errors that name one
CONTEXT = 8  # tokens, of those errors that name how many fit

CLASSES: Mapping[str, type[EngineError]] = MappingProxyType(
    {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, EngineError)
    }
)
"""Every class of errors that an engine may give, by its name."""

_FAULT = re.compile(r"fault\W+(\w+)\W+at\W+(submit|sink)")


def fault(name: str) -> EngineError:
    """Return an error of the class of this name."""
    kind = CLASSES[name]
    if issubclass(kind, ContextExceeded):
        return kind(FIELD, CONTEXT, TEXT)
    return kind(FIELD, TEXT) if issubclass(kind, InvalidField) else kind(TEXT)


class FaultyEngine:
    """An engine that fails prompts such as ``{"fault": "Overloaded", "at": "submit"}``.

    At ``submit`` it raises the error; at ``sink`` it accepts the request and fails it later.
    """

    def __init__(self, engine: Engine, text: Callable[[Sequence[int]], str]) -> None:
        """Read a prompt's ids with ``text``; leave all other work to ``engine``."""
        self._engine = engine
        self._text = text

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._engine, name)

    def submit(self, request: EngineRequest) -> None:
        found = _FAULT.search(self._text(request.prompt_ids))
        if found is None:
            return self._engine.submit(request)
        error = fault(found[1])
        if found[2] == "submit":
            raise error
        threading.Thread(target=request.sink.fail, args=(error,)).start()


class FaultyModel(ServedModel):
    """The base that puts faults in front of the engine of the class beside it."""

    def create_engine(self, options: ModelOptions) -> Engine:
        engine = super().create_engine(options)  # type: ignore[safe-super]
        return cast(Engine, FaultyEngine(engine, self.prompt_text))

    def prompt_text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)
