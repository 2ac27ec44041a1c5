"""Starts generations, and knows all that are running."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Self

from control_plane.cache.response_cache import ResponseCache
from control_plane.errors import (
    InvalidRequest,
    ModelNotReady,
    TriadError,
    Unavailable,
)
from control_plane.generation.context_limit import check_fits
from control_plane.generation.generation import Generation
from control_plane.generation.requests import GenerationRequest, TokenReservation
from control_plane.generation.running import Generations
from control_plane.inference.client import ModelClient, ResponseStream, ask
from control_plane.inference.prompts import TokenIds
from control_plane.inference.requests import Encode, Generate
from control_plane.inference.responses import Delta
from control_plane.models.catalog import Model, Models
from control_plane.observability.metrics import Metrics
from control_plane.observability.stats import Stats

GRACE_SECONDS = 10.0
"""How long a request that took too long may take to end at its model, before Triton cuts it off."""

CALLER_SALT = "caller:"
"""The beginning of the salts that callers have by default: no client may choose one of these."""

_IDENTITY = (
    *("backend", "type", "parameters", "dtype", "context_length"),
    *("quantization", "optimization_level", "weights"),
)
"""Facts of a model that change when another one takes its name."""


def _identity(models: Iterable[Model]) -> str:
    """Return what tells a model from any other that had, or has on another server, its name. Where
    its weights are not known, it is another one each time that it has been loaded again."""
    known = [model.facts for model in models if model.is_described]
    identities = (
        [getattr(facts, name) for name in _IDENTITY]
        + ([facts.restarted_at] if facts.weights is None else [])
        for facts in known
    )
    return json.dumps(sorted({json.dumps(identity) for identity in identities}))


class GenerationService:
    """The service that ``/generate``, ``/chat``, ``/v1`` and the Python API call."""

    def __init__(
        self,
        client: ModelClient,
        catalog: Models,
        metrics: Metrics,
        stats: Stats,
        generations: Generations,
        *,
        timeout: float,
        cache: ResponseCache | None = None,
        salt: Callable[[str], str] | None = None,
    ) -> None:
        """Create the service. ``generations``: where those that it begins are kept. ``timeout``:
        seconds that one of them may take. ``salt``: returns the `cache_salt` of a caller's requests
        that have none; None: they go without."""
        self._client = client
        self._cache = cache
        self._salt = salt
        self._catalog = catalog
        self._metrics = metrics
        self._stats = stats
        self._timeout = timeout
        self.generations = generations
        self._settling: set[asyncio.Future[None]] = set()

    def among(self, catalog: Models) -> Self:
        """Return the same service for requests that may only name models of ``catalog``."""
        narrowed = copy.copy(self)
        narrowed._catalog = catalog
        return narrowed

    @property
    def running(self) -> int:
        """Return the number of generations that have not ended."""
        return len(self.generations.running)

    def model(self, name: str | None) -> Model:
        """Return the language model of that name, or the default one. Raises `TriadError`, which
        is counted: nothing is generated then."""
        try:
            self.generations.raise_if_closed()
            return self._catalog.language_model(name)
        except TriadError as error:
            self._metrics.requests.labels("", error.type).inc()
            raise

    async def start(self, request: GenerationRequest) -> Generation:
        """Return a generation whose first response is there. The caller closes it.

        Raises `TriadError`: until the first response, nothing has been promised to the client.
        """
        model = self.model(request.model)
        generation = Generation(
            request.request_id,
            model,
            self._metrics,
            self._stats,
            partial(self._ended, request),
            timeout=self._timeout,
            stream=request.stream,
            metadata=request.metadata,
        )
        self.generations.running.add(generation)
        try:
            check_fits(model, request.prompt)
            if request.account is not None:
                tokens = request.tokens_at_most(model.context_length)
                generation.reservation = await request.account.reserve(tokens)
            generation.attach(self._infer(model, request))
            await generation.pull_first()
        except BaseException as error:
            generation.close(error)
            raise
        return generation

    def _infer(self, model: Model, request: GenerationRequest) -> ResponseStream[Delta]:
        generate = Generate(
            model.name,
            request.request_id,
            request.prompt,
            request.sampling,
            stream=request.stream,
            returns=request.outputs,
            scheduling=request.scheduling,
        )
        # Not in the key of the cache, which keeps callers apart by rules of its own.
        salted = replace(generate, sampling=self._salted(request))
        begin = partial(self._client.infer, salted, timeout=self._timeout + GRACE_SECONDS)
        cache = self._cache
        if cache is None or request.cache == "none":
            return begin()
        if not (cache.keeps_sampled or request.is_deterministic):
            return begin()
        number = 0 if request.is_deterministic else request.number
        facts = _identity(self._catalog.same_name(model))
        key = cache.key(generate, facts, request.caller, number)
        reads = request.cache != "write"
        return cache.stream(key, begin, streamed=request.stream, reads=reads)

    def _salted(self, request: GenerationRequest) -> Mapping[str, Any]:
        """Return the sampling parameters with the caller's salt, where they are to have one. Raises
        `InvalidRequest` for a client's own salt that could be another caller's."""
        own = request.sampling.get("cache_salt")
        if self._salt is None:
            return request.sampling
        if not own:
            return {**request.sampling, "cache_salt": CALLER_SALT + self._salt(request.caller)}
        if str(own).startswith(CALLER_SALT):
            raise InvalidRequest(
                f"cache_salt: must not begin with `{CALLER_SALT}`", param="cache_salt"
            )
        return request.sampling

    async def encode(self, request: GenerationRequest) -> TokenIds:
        """Return the request's prompt as token ids, which fit into the context. Raises
        `TriadError`."""
        model = self.model(request.model)
        check_fits(model, request.prompt)
        encode = Encode(model.name, request.request_id, request.prompt)
        return await ask(self._client, encode, timeout=self._timeout)

    def _ended(
        self, request: GenerationRequest, generation: Generation, error: BaseException | None
    ) -> None:
        self.generations.running.discard(generation)
        if generation.reservation is not None:
            self._settle(generation.reservation, request, generation)
        if isinstance(error, Unavailable):
            self._catalog.request_refresh()

    def _settle(
        self, reservation: TokenReservation, request: GenerationRequest, generation: Generation
    ) -> None:
        """Settle at once for an answer that is complete, else when the engine has said what it
        computed."""

        def record(_: object = None) -> None:
            prompt_tokens = generation.prompt_tokens if request.counts_prompt else 0
            reservation.settle(generation.tokens + prompt_tokens)

        if generation.finish_reason is not None:
            return record()
        settling = asyncio.ensure_future(generation.settle())
        self._settling.add(settling)
        settling.add_done_callback(record)
        settling.add_done_callback(self._settling.discard)

    def abort_model(self, model: Model) -> None:
        """End what runs on a model that has become unhealthy: its streams would never end."""
        error = ModelNotReady(f"model: `{model.served_name}` died while it was generating")
        for generation in list(self.generations.running):
            if generation.model is model:
                generation.abort(error)

    async def settled(self) -> None:
        """Wait until the generations that were cancelled are charged for."""
        if self._settling:
            await asyncio.wait(self._settling)
