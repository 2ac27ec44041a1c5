"""`ModelServer`: models from a Python program, through the same service as the HTTP API."""

from __future__ import annotations

import asyncio
import atexit
import secrets
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack

from control_plane.errors import ModelNotReady
from control_plane.generation.generation import Generation
from control_plane.generation.result import GenerationResult, collect
from control_plane.generation.service import GenerationRequest
from control_plane.launch import EmbeddedTriton
from control_plane.services import Services, open_services
from control_plane.settings import ConfigManager, require_supported

T = TypeVar("T")

Prompt = str | Sequence[Mapping[str, Any]]


class Options(TypedDict, total=False):
    """Which model (the default one where absent), and `backends.contract.SamplingParameters`."""

    model: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: str | list[str]
    seed: int
    ignore_eos: bool


DEFAULTS = Options(max_tokens=512, temperature=0.7)
"""Those of ``POST /generate``."""


class ModelServer:
    """Loads models and generates text. Methods block, and may be called from several threads.

    The first `load_model` starts an embedded Triton, or joins the server that
    ``serving.triton.endpoints`` names. `close`, or the end of the program, stops what was started.
    """

    def __init__(self, config: ConfigManager) -> None:
        self._config = config
        self._triton: EmbeddedTriton | None = None
        self._services: Services | None = None
        self._stack = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="model-server", daemon=True
        )
        self._thread.start()
        self._lock = threading.Lock()
        atexit.register(self.close)

    def load_model(self, model: str) -> None:
        """Load a model, which becomes the default one.

        ``model``: a name in the model repository, a folder, or a hub id; at a server that was
        joined, a model that it has. Raises `SettingsError`, `ModelError`, `TritonMissing`,
        `StartFailed`, `TriadError`.
        """
        with self._lock:
            if self._services is None:
                served_name = self._start(model)
            elif self._triton is not None:
                served_name = self._triton.load(model).served_name
            else:
                served_name = model
                self._services.catalog.names.add(model)
            assert self._services is not None
            self._run(self._services.catalog.refresh())
            self._services.catalog.default_model = served_name
            self._services.catalog.ready(served_name)

    def _start(self, model: str) -> str:
        require_supported(self._config.settings)
        settings = self._config.serving.model_copy(deep=True)
        settings.model = model
        if not settings.triton.endpoints:
            self._triton = EmbeddedTriton(settings)
            try:
                self._triton.start()
            except BaseException:
                self._triton = None
                raise
            settings = self._triton.connected()
        self._services = self._run(self._stack.enter_async_context(open_services(settings)))
        return settings.model

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> GenerationResult:
        """Generate from a text or from chat messages. Raises `TriadError`."""

        async def whole() -> GenerationResult:
            return await collect(await self._begin(prompt, options, stream=False))

        return self._run(whole())

    def generate_stream(self, prompt: Prompt, **options: Unpack[Options]) -> Iterator[str]:
        """As `generate`, in pieces of text as they come. Closing the iterator ends the request."""
        generation = self._run(self._begin(prompt, options, stream=True))
        error: BaseException | None = None
        try:
            while deltas := self._run(_next(generation)):
                yield "".join(delta.text for delta in deltas)
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._loop.call_soon_threadsafe(generation.close, error)

    async def _begin(self, prompt: Prompt, options: Options, *, stream: bool) -> Generation:
        if self._services is None:
            raise ModelNotReady("no model is loaded: call load_model first")
        sampling: dict[str, Any] = {**DEFAULTS, **options}
        model = sampling.pop("model", None)
        request = GenerationRequest(
            prompt=prompt,
            sampling=sampling,
            request_id=f"req_{secrets.token_hex(8)}",
            model=model,
            stream=stream,
        )
        return await self._services.generation.start(request)

    def close(self) -> None:
        """Stop what was started. Safe to call twice."""
        with self._lock:
            if self._loop.is_closed():
                return
            self._run(self._stack.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            if self._triton is not None:
                self._triton.stop()
        atexit.unregister(self.close)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # of Ctrl-C, too: the request ends with the wait for it
            future.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


async def _next(generation: Generation) -> list[Any]:
    """The next batch of deltas; empty at the end."""
    async for deltas in generation:
        return deltas
    return []
