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
from dataclasses import dataclass
from pathlib import Path

from backends.contract.facts import UNKNOWN, ModelFacts
from control_plane.engines import ENGINE_NAMES, variant_name
from control_plane.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ProtocolRestricted,
    TriadError,
)
from control_plane.inference.client import ModelClient, ask
from control_plane.inference.requests import Describe
from control_plane.models.liveness import Liveness, State
from control_plane.models.processes import ModelProcesses, Sighting

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Model:
    """One model. ``facts`` is what its engine says of itself, once it has been ready.

    ``ready``: it gets requests. ``alive``: those that it has may go on, though it may be too busy
    for more. ``expected``: the settings name it, so it will be there soon.
    """

    name: str  # Triton's
    served_name: str
    loaded: bool = False
    ready: bool = False
    alive: bool = False
    problem: str = "is not loaded"
    facts: ModelFacts = UNKNOWN
    expected: bool = False

    @property
    def is_served(self) -> bool:
        """Return whether requests may name the model: it is loaded, or is down and may come back.

        A repository may contain others.
        """
        return self.loaded or self.is_described or self.expected

    @property
    def is_described(self) -> bool:
        """Return whether it has been ready, so that its facts are known."""
        return self.facts != UNKNOWN

    @property
    def backend(self) -> str:
        return self.facts.backend

    @property
    def type(self) -> str:
        """Return ``causal_lm``, ``embedding`` or ``classification``."""
        return self.facts.type

    @property
    def context_length(self) -> int:
        """Return how many tokens fit. Raises `ModelNotReady` until that is known."""
        if self.facts.context_length is None:
            raise ModelNotReady(f"{self.served_name}: {self.problem}")
        return self.facts.context_length

    def runs_on_another(self, engine: str) -> bool:
        """Return whether it is a language model on another engine: encoders have no choice."""
        return self.type == "causal_lm" and self.backend in ENGINE_NAMES and self.backend != engine


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
        """Add a model that is asked after where the server does not let us list what it has."""

    @abstractmethod
    def request_refresh(self) -> None:
        """Check the models now and not at the next interval: a request could not reach its own."""

    @abstractmethod
    async def refresh(self) -> None: ...

    @abstractmethod
    async def watch(self, interval: float) -> None:
        """Refresh for ever, every ``interval`` seconds."""

    def same_name(self, model: Model) -> Iterable[Model]:
        """Return the model as each server has it that may answer its requests."""
        return (model,)

    def find(self, name: str | None) -> Model:
        """Return a model by the name that clients use, or the default. Raises `ModelNotFound`."""
        for wanted in self.default_names if name is None else (name,):
            for model in self:
                known = wanted in (model.served_name, model.name)
                if known and (model.is_served or name is None):
                    return model
        if name is None:
            raise ModelNotReady("the default model is not loaded yet")
        raise ModelNotFound(name, (m.served_name for m in self if m.loaded))

    @property
    def default_names(self) -> tuple[str, ...]:
        """Return the names of the default model, the preferred one first."""
        own = self.default_model
        return (own,) if self.engine is None else (variant_name(own, self.engine), own)

    def ready(self, name: str | None) -> Model:
        """Return what `find` returns if it is ready. Raises `ModelNotReady` too."""
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
        """Return a ready language model. Raises `InvalidRequest` for any other kind of model."""
        model = self.ready(name)
        if model.type != "causal_lm":
            raise InvalidRequest(
                f"model: `{model.served_name}` ({model.type}) does not generate text", param="model"
            )
        return model

    def embedding_model(self, name: str | None) -> Model:
        """Return a ready embedding model. Raises `InvalidRequest` for any other kind of model."""
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
    """The models of one server, whose state `watch` refreshes.

    ``names`` are asked after where the server does not let us list what it has.
    """

    def __init__(
        self,
        client: ModelClient,
        default_model: str,
        names: Iterable[str] = (),
        engine: str | None = None,
        *,
        timeout: float,
        failures: int = 1,
        processes: ModelProcesses | None = None,
        on_unhealthy: Callable[[Model], None],
    ) -> None:
        """``timeout``, ``failures``: of checks, as `Liveness` takes them. ``processes``: the
        models', where they run on this machine."""
        super().__init__(default_model, engine)
        self._failures = failures
        self._processes = processes
        self._names = {*self.default_names, *names}
        # A folder's model has its name.
        self._expected = self._names | {Path(name).name for name in self._names}
        self._client = client
        self._timeout = timeout
        self._on_unhealthy = on_unhealthy
        self._models: dict[str, Model] = {}  # by Triton's name
        self._liveness: dict[str, Liveness] = {}
        self._refresh_requested = asyncio.Event()

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._models.values()))

    def add_name(self, name: str) -> None:
        self._names.add(name)
        self._expected.add(Path(name).name)

    def request_refresh(self) -> None:
        self._refresh_requested.set()

    async def watch(self, interval: float) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._refresh_requested.wait(), interval)
            self._refresh_requested.clear()
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
                self._failed(model, error, f"cannot be reached: {error}")
                model.loaded = model.ready
            return
        for name in self._models.keys() - index.keys():
            del self._models[name]
        await asyncio.gather(*(self._refresh(name, loaded) for name, loaded in index.items()))

    async def _refresh(self, name: str, loaded: bool) -> None:
        model = self._models.get(name) or Model(name, name)
        before: Sighting | None = None
        try:
            if loaded and not model.is_described:
                parameters = await self._client.model_parameters(name, timeout=self._timeout)
                if parameters is None:
                    return  # not of our contract: it is used through Triton directly
                model.served_name = parameters.get("served_model_name") or name
            self._models[name] = model
            model.loaded = loaded
            model.expected = not self._expected.isdisjoint({name, model.served_name})
            if not loaded:
                return self._mark_unhealthy(model, "is not loaded")
            if self._processes is not None:
                before = self._processes.look(name)
            if before is not None:
                before.raise_if_idle()
            self._answered(model, await self._describe(name))
        except TriadError as error:
            computes = self._processes is not None and self._processes.computes(name, before)
            self._failed(model, error, f"does not answer: {error}", computes=computes)

    async def _describe(self, name: str) -> ModelFacts:
        return await ask(self._client, Describe(name, "describe"), timeout=self._timeout)

    def _answered(self, model: Model, facts: ModelFacts) -> None:
        if model.alive and facts.restarted_at != model.facts.restarted_at:
            self._mark_unhealthy(
                model, "was started again"
            )  # what runs there waits for the former one
        model.facts = facts
        model.ready, model.alive, model.problem = True, True, ""
        self._life(model).answered()

    def _life(self, model: Model) -> Liveness:
        return self._liveness.setdefault(model.name, Liveness(self._failures, self._timeout))

    def _failed(
        self, model: Model, error: TriadError, problem: str, *, computes: bool = False
    ) -> None:
        heard = self._client.last_heard(model.name)
        state = self._life(model).failed(error, heard=heard, computes=computes)
        if state is State.UNHEALTHY:
            self._mark_unhealthy(model, problem)
        elif state is State.BUSY and model.ready:
            logger.warning("model %s %s; what it has goes on", model.served_name, problem)
            model.ready, model.problem = False, problem

    def _mark_unhealthy(self, model: Model, problem: str) -> None:
        model.ready, model.problem = False, problem
        if model.alive:
            logger.warning("model %s %s", model.served_name, problem)
            model.alive = False
            self._on_unhealthy(model)
