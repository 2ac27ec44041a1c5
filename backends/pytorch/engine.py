"""The batching engine over a transformers model, with gradients and a profiler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from backends.batching.engine import BatchingEngine
from backends.contract.errors import EngineError, Overloaded
from backends.contract.sampling import SamplingParameters
from backends.engine import Attribution, EngineRequest
from backends.gpu import gpu_memory
from backends.pytorch.attribution import MAX_TOKENS, Attributor
from backends.pytorch.loading import LoadedCausalLM
from backends.pytorch.profiling import Trace


class PyTorchEngine(BatchingEngine[LoadedCausalLM]):
    """The engine of PyTorch models."""

    attribution_length = MAX_TOKENS

    def __init__(self, load: Callable[[], LoadedCausalLM], **options: Any) -> None:  # noqa: ANN401
        """Load a model and start to serve it; ``options`` are those of `BatchingEngine`.

        Raises what ``load`` raises.
        """
        self._trace: Trace | None = None
        self._trace_lock = threading.Lock()
        super().__init__(load, **options)
        self._attributor = Attributor(
            self.model.source,
            self.model.runner.device,
            allow_pickle_weights=self.model.allow_pickle_weights,
        )

    def attribute(
        self,
        prompt_ids: Sequence[int],
        target_ids: Sequence[int],
        done: Callable[[Attribution | EngineError], None],
    ) -> None:
        """Queue an attribution; ``done`` is called once, from the attributor's thread.

        Raises `Overloaded`, `ShuttingDown`.
        """
        self._attributor.submit(prompt_ids, target_ids, done)

    def trace(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParameters,
        done: Callable[[bytes | EngineError], None],
    ) -> None:
        """Serve a request under PyTorch's profiler; ``done`` is called once, with the trace.

        Raises `Overloaded` also while another request is being traced, `InvalidField`,
        `ShuttingDown`.
        """
        with self._trace_lock:
            if self._trace is not None:
                raise Overloaded("another request is being profiled")
            self._trace = Trace(done)
            try:
                self.submit(EngineRequest(prompt_ids, sampling, self._trace))
            except EngineError:
                self._trace = None
                raise

    def on_request_started(self, request: EngineRequest) -> None:
        """Start the profiler if the request is the one to trace."""
        if self._trace is not None and request.sink is self._trace:
            self._trace.begin()

    def on_request_finished(self, request: EngineRequest) -> None:
        """Stop the profiler if the request is the one that is traced."""
        if self._trace is not None and request.sink is self._trace:
            trace, self._trace = self._trace, None
            trace.finish()

    def describe(self) -> dict[str, Any]:
        """Return static facts and gauges, with the GPUs' memory. Raises `EngineError`."""
        return super().describe() | {"backend": "pytorch", "gpus": gpu_memory()}

    def close(self) -> None:
        """Fail all unfinished requests and attributions with `ShuttingDown`, and stop."""
        super().close()
        self._attributor.close()
