"""The models of a Triton server and their health.

Triton reports a model as ready when the process that holds it has died, so each model is asked to
describe itself: a small inference that runs in that process.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from control_plane.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ProtocolRestricted,
    TriadError,
)
from control_plane.triton import codec
from control_plane.triton.client import TritonClient, ask

logger = logging.getLogger(__name__)

ENGINES = frozenset({"pytorch", "onnx", "vllm"})
TIMEOUTS_TO_DEATH = 3
"""A busy process may miss a check; one that misses this many in a row counts as dead."""


@dataclass(slots=True)
class Model:
    """One model. ``facts`` is what its engine says of itself; empty until it has been ready."""

    name: str  # Triton's
    served_name: str
    loaded: bool = False
    ready: bool = False
    problem: str = "is not loaded"
    failures: int = 0  # checks, in a row
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def backend(self) -> str:
        backend: str = self.facts.get("backend", "unknown")
        return backend

    @property
    def type(self) -> str:
        """``causal_lm``, ``embedding``, ``classification``."""
        kind: str = self.facts.get("type", "unknown")
        return kind

    def runs_on_another(self, engine: str) -> bool:
        """Whether it is a language model on another engine of ours: encoders have no choice."""
        return self.type == "causal_lm" and self.backend in ENGINES - {engine}


class Models(ABC):
    """Models by the names that clients use."""

    def __init__(self, default_model: str, engine: str | None = None) -> None:
        """``engine``: the one that `backend_type` asks for, where it does: of the default model's
        name, the model for that engine is taken where there is one (``demo_onnx`` for ``demo``),
        and a language model on another engine is not taken for it."""
        self.default_model = default_model
        self.engine = engine

    @abstractmethod
    def __iter__(self) -> Iterator[Model]: ...

    @abstractmethod
    def add_name(self, name: str) -> None:
        """One more that is asked after where the server does not let us list what it has."""

    @abstractmethod
    def doubt(self) -> None:
        """A request could not reach its model: check now, not at the next interval."""

    @abstractmethod
    async def refresh(self) -> None: ...

    @abstractmethod
    async def watch(self, interval: float) -> None:
        """Refreshes for ever. ``interval``: seconds."""

    def find(self, name: str | None) -> Model:
        """A model by the name clients use, or the default. Raises `ModelNotFound`."""
        for wanted in self.default_names if name is None else (name,):
            for model in self:
                if wanted in (model.served_name, model.name):
                    return model
        if name is None:
            raise ModelNotReady("the default model is not loaded yet")
        raise ModelNotFound(name, (m.served_name for m in self))

    @property
    def default_names(self) -> tuple[str, ...]:
        """Names of the default model, the preferred one first."""
        own = self.default_model
        return (own,) if self.engine is None else (f"{own}_{self.engine}", own)

    def ready(self, name: str | None) -> Model:
        """As `find`; raises `ModelNotReady` too."""
        model = self.find(name)
        if not model.ready:
            raise ModelNotReady(f"model: `{model.served_name}` {model.problem}")
        if name is None and self.engine is not None and model.runs_on_another(self.engine):
            raise ModelNotReady(
                f"model: `{model.served_name}` runs on {model.backend}, and serving.backend_type "
                f"asks for {self.engine}"
            )
        return model

    def language_model(self, name: str | None) -> Model:
        """As `ready`; raises `InvalidRequest` for an embedding model or a classifier."""
        model = self.ready(name)
        if model.type != "causal_lm":
            raise InvalidRequest(
                f"model: `{model.served_name}` ({model.type}) does not generate text", param="model"
            )
        return model

    def embedding_model(self, name: str | None) -> Model:
        """As `ready`; raises `InvalidRequest` for any other kind of model."""
        model = self.ready(name)
        if model.type != "embedding":
            others = sorted(m.served_name for m in self if m.type == "embedding")
            raise InvalidRequest(
                f"model: `{model.served_name}` ({model.type}) makes no embeddings; "
                f"those that do: {', '.join(others) or 'none'}",
                param="model",
            )
        return model


class Catalog(Models):
    """What is known of the models, refreshed by `watch`.

    ``names`` are asked after where the server does not let us list what it has.
    """

    def __init__(
        self,
        client: TritonClient,
        default_model: str,
        names: Iterable[str] = (),
        engine: str | None = None,
        *,
        timeout: float,
        failures_to_death: int = 1,
        on_death: Callable[[Model], None],
    ) -> None:
        """``failures_to_death``: failed checks in a row; of checks that take too long there must be
        three at least."""
        super().__init__(default_model, engine)
        self._failures_to_death = failures_to_death
        self._names = {*self.default_names, *names}
        self._client = client
        self._timeout = timeout
        self._on_death = on_death
        self._models: dict[str, Model] = {}  # by Triton's name
        self._doubt = asyncio.Event()

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._models.values()))

    def add_name(self, name: str) -> None:
        self._names.add(name)

    def doubt(self) -> None:
        self._doubt.set()

    async def watch(self, interval: float) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._doubt.wait(), interval)
            self._doubt.clear()
            try:
                await self.refresh()
            except Exception:  # of a defect of ours: the checks go on all the same
                logger.exception("the models' state could not be read")

    async def refresh(self) -> None:
        try:
            index = await self._client.repository_index(timeout=self._timeout)
        except ProtocolRestricted:
            index = dict.fromkeys(self._names, True)
        except TriadError as error:
            for model in self._models.values():
                self._failed(model, f"cannot be reached: {error}", self._failures_to_death)
                model.loaded = model.ready
            return
        for name in self._models.keys() - index.keys():
            del self._models[name]
        await asyncio.gather(*(self._refresh(name, loaded) for name, loaded in index.items()))

    async def _refresh(self, name: str, loaded: bool) -> None:
        model = self._models.get(name) or Model(name, name)
        try:
            if loaded and not model.facts:
                config = await self._client.model_config(name, timeout=self._timeout)
                if not any(i["name"] == "describe" for i in config.get("input", [])):
                    return  # not of our contract: it is used through Triton directly
                parameters = config.get("parameters", {})
                served = parameters.get("served_model_name", {}).get("string_value")
                model.served_name = served or name
            self._models[name] = model
            model.loaded = loaded
            if loaded:
                model.facts = await self._describe(name)
                model.ready, model.problem, model.failures = True, "", 0
            else:
                self._mark_dead(model, "is not loaded")
        except DeadlineExceeded:
            most = max(self._failures_to_death, TIMEOUTS_TO_DEATH)
            self._failed(model, "does not answer", most)
        except TriadError as error:
            self._failed(model, f"does not answer: {error}", self._failures_to_death)

    async def _describe(self, name: str) -> dict[str, Any]:
        answer = await ask(self._client, codec.describe_request(name), timeout=self._timeout)
        facts: dict[str, Any] = orjson.loads(answer)
        return facts

    def _failed(self, model: Model, problem: str, most: int) -> None:
        model.failures += 1
        if model.failures >= most:
            self._mark_dead(model, problem)

    def _mark_dead(self, model: Model, problem: str) -> None:
        if model.ready:
            logger.warning("model %s %s", model.served_name, problem)
            model.ready = False
            self._on_death(model)
        model.problem = problem
