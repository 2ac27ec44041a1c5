"""`ModelServer`: models from a Python program, through the same service as the HTTP API."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from control_plane.generation.generation import Generation
from control_plane.generation.result import GenerationResult, collect
from control_plane.inference.responses import Delta
from control_plane.python_api.model_host import ModelHost, Prompt
from control_plane.python_api.options import with_options
from control_plane.settings import ConfigManager

T = TypeVar("T")


class ModelServer:
    """Loads models and generates text. Methods block, and may be called from several threads.

    The first `load_model` starts an embedded Triton, or joins the server that
    ``serving.triton.endpoints`` names. `close`, or the end of the program, stops what was started.
    """

    def __init__(self, config: ConfigManager) -> None:
        self._config = config
        self._host = ModelHost()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="model-server", daemon=True
        )
        self._thread.start()
        self._closing = threading.Lock()
        atexit.register(self.close)

    def load_model(self, model: str) -> None:
        """Load a model, which becomes the default one.

        ``model``: a name in the model repository, a folder, or a hub id; at a server that was
        joined, a model that it has. Raises `SettingsError`, `ModelError`, `TritonMissing`,
        `StartFailed`, `TriadError`.
        """
        self._run(self._host.load(model, self._config.serving))

    @with_options
    def generate(self, prompt: Prompt, **options: Any) -> GenerationResult:  # noqa: ANN401
        """Generate from a text or from chat messages. Raises `TriadError`.

        ``options``: ``model`` (the default one where absent) and sampling parameters.
        """

        async def whole() -> GenerationResult:
            return await collect(await self._begin(prompt, options, stream=False))

        return self._run(whole())

    @with_options
    def generate_stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:  # noqa: ANN401
        """Generate as `generate` does, and yield the text in pieces as they come.

        Closing the iterator ends the request.
        """
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

    async def _begin(self, prompt: Prompt, options: dict[str, Any], *, stream: bool) -> Generation:
        sampling = options.copy()
        return await self._host.begin(prompt, sampling, sampling.pop("model", None), stream=stream)

    def close(self) -> None:
        """Stop what was started. Safe to call twice."""
        with self._closing:
            if self._loop.is_closed():
                return
            self._run(self._host.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
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


async def _next(generation: Generation) -> Sequence[Delta]:
    """Return the next batch of deltas, which is empty at the end."""
    async for deltas in generation:
        return deltas
    return ()
