"""The batching engine over a transformers model, with gradients and a profiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from backends.batching.engine import BatchingEngine
from backends.contract.errors import EngineError, Overloaded
from backends.contract.sampling import SamplingParameters
from backends.engine import Attribution, EngineRequest
from backends.gpu import gpu_memory
from backends.pytorch.attribution import MAX_TOKENS, Attributor
from backends.pytorch.loading import Loaded
from backends.pytorch.profiling import Trace


class PyTorchEngine(BatchingEngine[Loaded]):
    """Implements `backends.engine.Engine`."""

    attribution_length = MAX_TOKENS

    def __init__(self, load: Callable[[], Loaded], **options: Any) -> None:  # noqa: ANN401
        self._trace: Trace | None = None
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
        self._attributor.submit(prompt_ids, target_ids, done)

    def trace(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParameters,
        done: Callable[[bytes | EngineError], None],
    ) -> None:
        with self._wake:
            if self._trace is not None:
                raise Overloaded("another request is being profiled")
            self._trace = Trace(done)
            try:
                self.submit(EngineRequest(prompt_ids, sampling, self._trace))
            except EngineError:
                self._trace = None
                raise

    def _starts(self, request: EngineRequest) -> None:
        if self._trace is not None and request.sink is self._trace:
            self._trace.begin()

    def _left(self, request: EngineRequest) -> None:
        if self._trace is not None and request.sink is self._trace:
            trace, self._trace = self._trace, None
            trace.finish()

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"backend": "pytorch", "gpus": gpu_memory()}

    def close(self) -> None:
        super().close()
        self._attributor.close()
