"""The load of vLLM: gauges for `describe`, and its own metrics for Prometheus."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from vllm.v1.metrics.loggers import StatLoggerBase

PREFIX = "vllm:"


class Gauges:
    """The scheduler's state after its last step."""

    def __init__(self) -> None:
        self._by_engine: dict[int, Any] = {}

    def logger(self, config: Any, engine_index: int = 0) -> StatLoggerBase:  # noqa: ANN401
        """Return a stat logger. vLLM calls this factory for each data-parallel engine."""
        return _Recorder(self._by_engine, engine_index)

    def now(self) -> dict[str, Any]:
        """Return ``running`` and ``waiting`` sequences, and ``kv_cache_usage`` from 0 to 1."""
        stats = list(self._by_engine.values())
        return {
            "running": sum(s.num_running_reqs for s in stats),
            "waiting": sum(s.num_waiting_reqs for s in stats),
            "kv_cache_usage": max((s.kv_cache_usage for s in stats), default=0.0),
        }


class _Recorder(StatLoggerBase):  # type: ignore[misc]
    """A stat logger that keeps the scheduler's latest state."""

    def __init__(self, by_engine: dict[int, Any], engine_index: int) -> None:
        self._by_engine = by_engine
        self._engine_index = engine_index

    def record(self, scheduler_stats: Any, *_: object, **__: object) -> None:  # noqa: ANN401
        """Keep the scheduler's state, if it is given."""
        if scheduler_stats is not None:
            self._by_engine[self._engine_index] = scheduler_stats

    def log_engine_initialized(self) -> None:
        """Do nothing."""


class _VllmMetrics(Collector):
    """The metrics of this process that are vLLM's."""

    def collect(self) -> list[Metric]:
        """Return the metrics whose names begin with `PREFIX`."""
        return [m for m in REGISTRY.collect() if m.name.startswith(PREFIX)]


def exposition() -> str:
    """Return vLLM's metrics under its own names, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_VllmMetrics())
    return generate_latest(registry).decode()


def gpu_memory() -> list[dict[str, int]]:
    """Return bytes for every GPU: ``total``, ``used``, ``free``.

    They come from the driver: through CUDA, this process would take memory of each GPU itself.
    """
    memory = []
    with suppress(ImportError):
        from vllm.third_party import pynvml

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                info = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
                memory.append({"total": info.total, "used": info.used, "free": info.free})
    return memory
