"""A profiler's trace of one request, with everything that the engine computes meanwhile.

The trace is gzipped JSON in Chrome's format: chrome://tracing and https://ui.perfetto.dev open it.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from backends.contract.errors import EngineError
from backends.contract.responses import FinishReason
from backends.engine import Token

logger = logging.getLogger(__name__)


class Trace:
    """The sink of the request that is traced.

    The engine's thread calls `begin` before it computes anything of the request, and `finish` once,
    when the request has ended.
    """

    def __init__(self, done: Callable[[bytes | EngineError], None]) -> None:
        """Create a sink; ``done`` is called once, with the gzipped trace or an error."""
        self._done = done
        self._profiler: profile | None = None
        self._error: EngineError | None = None

    def put(self, token: Token, finish_reason: FinishReason | None) -> None:
        """Ignore the token: only the trace is of interest."""

    def fail(self, error: EngineError) -> None:
        """Keep the error for `finish`."""
        self._error = error

    def begin(self) -> None:
        """Start the profiler."""
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities, record_shapes=True)
        self._profiler.start()

    def finish(self) -> None:
        """Stop the profiler, and pass on the trace, or the error of the request."""
        if self._profiler is not None:
            self._profiler.stop()
        if self._error is not None or self._profiler is None:
            return self._done(self._error or EngineError("the request was not computed"))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._profiler.export_chrome_trace(str(file))
            trace = gzip.compress(file.read_bytes())
        self._done(trace)
