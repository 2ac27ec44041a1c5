"""Prometheus metrics of the gateway. Times are in seconds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from control_plane.models.catalog import Model

T = TypeVar("T")

_LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names the folder in which several workers keep their metrics. It is
set before ``prometheus_client`` is imported.
https://prometheus.github.io/client_python/multiprocess/"""


class Metrics:
    """The metrics of one application: with several workers, the sums over them all.

    Then there is nothing about a single process: no ``process_…``, no ``triad_event_loop_tasks``.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._of_all = registry
        self._more: dict[Callable[[CollectorRegistry], Any], Any] = {}
        label = ["model"]
        if SHARED_FOLDER in os.environ:
            self._of_all = CollectorRegistry()
            MultiProcessCollector(self._of_all)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=registry)
            Gauge(
                "triad_event_loop_tasks", "asyncio tasks that have not ended", registry=registry
            ).set_function(lambda: len(asyncio.all_tasks()))
        self.engines = EngineGauges()
        self._of_all.register(self.engines)  # their values are the same in all workers
        self.responses = Counter(
            "triad_http_responses",
            "HTTP responses begun, by route and status",
            ["route", "status"],
            registry=registry,
        )
        self.requests = Counter(
            "triad_requests",
            "Generations ended, by outcome: stop, length, or an error's type; no model: not begun",
            ["model", "outcome"],
            registry=registry,
        )
        self.running = Gauge(
            "triad_requests_running",
            "Requests being generated",
            label,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.generated_tokens = Counter(
            "triad_generated_tokens", "Tokens generated", label, registry=registry
        )
        self.time_to_first_token = Histogram(
            "triad_time_to_first_token_seconds",
            "From the request's arrival to its first token; streams only",
            label,
            buckets=_LATENCY,
            registry=registry,
        )
        self.inter_token_latency = Histogram(
            "triad_inter_token_latency_seconds",
            "Time a token after the first, averaged over the tokens of a response; streams only",
            label,
            buckets=_TOKEN,
            registry=registry,
        )
        self.queue_wait = Histogram(
            "triad_queue_wait_seconds",
            "From the request's arrival at its engine until it was begun",
            label,
            buckets=_LATENCY,
            registry=registry,
        )
        self.duration = Histogram(
            "triad_request_duration_seconds",
            "From the request's arrival to its end",
            label,
            buckets=_LATENCY,
            registry=registry,
        )
        self.answers = Counter("triad_answers", "Generations that ended well", registry=registry)
        self.answer_tokens = Counter(
            "triad_answer_tokens", "Tokens of generations that ended well", registry=registry
        )
        self.answer_seconds = Counter(
            "triad_answer_seconds",
            "Time that generations took which ended well, to their last token",
            registry=registry,
        )

    def more(self, create: Callable[[CollectorRegistry], T]) -> T:
        """Return further metrics, which ``create`` makes when they are first asked for: what counts
        in them may be replaced, and they go on."""
        if create not in self._more:
            self._more[create] = create(self.registry)
        found: T = self._more[create]
        return found

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and values of a series, such as ``triad_requests_total``."""
        return [
            (sample.labels, sample.value)
            for metric in self._of_all.collect()
            for sample in metric.samples
            if sample.name == name
        ]

    def total(self, name: str) -> float:
        """Return the sum of a series over its labels."""
        return sum(value for _, value in self.samples(name))

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._of_all)


class EngineGauges(Collector):
    """The gauges that the engines of ``models`` have reported at the last health check."""

    def __init__(self) -> None:
        self.models: Iterable[Model] = ()

    def collect(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("triad_model_ready", "1: answers requests", labels=["model"])
        running = GaugeMetricFamily(
            "triad_engine_running", "Sequences that have a slot", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "triad_engine_waiting", "Sequences that wait for a slot", labels=["model"]
        )
        for model in self.models:
            labels = [model.served_name]
            ready.add_metric(labels, model.ready)
            running.add_metric(labels, model.facts.running)
            waiting.add_metric(labels, model.facts.waiting)
        return ready, running, waiting
