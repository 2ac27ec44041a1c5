"""Alerts: figures of the last ten checks against the thresholds of `monitoring.alert_thresholds`.

What is firing is told in the log when it begins and when it ends, and all the time by the metric
``triad_alert_firing``, which a Prometheus rule can pass on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from prometheus_client import CollectorRegistry, Gauge

from control_plane.errors import TriadError
from control_plane.models.catalog import Model
from control_plane.observability.metrics import Metrics
from control_plane.settings import AlertThresholds

logger = logging.getLogger(__name__)

CHECKS = 10
"""Of how many a figure is: five minutes, with the default interval."""
MIN_REQUESTS = 10
"""A rate or a percentile of fewer says nothing."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The generations since the start: how many failed, and how many took up to so many seconds."""

    failed: float
    ended: float
    durations: Mapping[float, float]

    @classmethod
    def of(cls, metrics: Metrics) -> Totals:
        failures, finished = _types_of_failures(), ("stop", "length")
        counts = dict.fromkeys([*failures, *finished], 0.0)
        for labels, value in metrics.samples("triad_requests_total"):
            if (outcome := labels["outcome"]) in counts:  # else the client's own doing
                counts[outcome] += value
        durations: dict[float, float] = {}
        for labels, value in metrics.samples("triad_request_duration_seconds_bucket"):
            bound = float(labels["le"])
            durations[bound] = durations.get(bound, 0.0) + value
        return cls(sum(counts[name] for name in failures), sum(counts.values()), durations)

    def since(self, before: Totals) -> Totals:
        durations = {le: n - before.durations.get(le, 0.0) for le, n in self.durations.items()}
        return Totals(self.failed - before.failed, self.ended - before.ended, durations)

    @property
    def error_rate(self) -> float | None:
        return self.failed / self.ended if self.ended >= MIN_REQUESTS else None

    @property
    def latency_p99(self) -> float | None:
        """Seconds, as Prometheus' `histogram_quantile` has it."""
        buckets = sorted(self.durations.items())
        if not buckets or buckets[-1][1] < MIN_REQUESTS:
            return None
        wanted = 0.99 * buckets[-1][1]
        for (low, below), (high, count) in pairwise([(0.0, 0.0), *buckets]):
            if count >= wanted:
                return (
                    low if high == inf else low + (high - low) * (wanted - below) / (count - below)
                )
        return None


class Alerts:
    def __init__(
        self, metrics: Metrics, models: Iterable[Model], thresholds: AlertThresholds
    ) -> None:
        self._metrics = metrics
        self._models = models
        self._thresholds: Mapping[str, float] = thresholds.model_dump()
        self._seen: deque[Totals] = deque([Totals.of(metrics)], maxlen=CHECKS)
        self._firing = metrics.more(_firing)
        for name in self._thresholds:
            self._firing.labels(name).set(0)
        self.firing: set[str] = set()

    async def watch(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            self.check()

    def check(self) -> None:
        recent = self.recent()
        self._seen.append(Totals.of(self._metrics))
        self._judge("error_rate", recent.error_rate)
        self._judge("latency_p99", recent.latency_p99)
        self._judge("gpu_memory_usage", _gpu_memory_usage(self._models))

    def recent(self) -> Totals:
        """Return the totals since `CHECKS` checks ago."""
        return Totals.of(self._metrics).since(self._seen[0])

    def _judge(self, name: str, value: float | None) -> None:
        """Begin or end an alert. ``value``: None where nothing can be said, which is no alert."""
        threshold = self._thresholds[name]
        fires = value is not None and value > threshold
        if fires and name not in self.firing:
            logger.warning("alert: %s is %.3g, above %g", name, value, threshold)
            self.firing.add(name)
        elif not fires and name in self.firing:
            logger.info("alert ended: %s is not above %g any more", name, threshold)
            self.firing.discard(name)
        self._firing.labels(name).set(fires)


def _firing(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "triad_alert_firing",
        "1: a figure is above its threshold",
        ["alert"],
        registry=registry,
        multiprocess_mode="livemax",
    )


def _types_of_failures() -> list[str]:
    """Return the types of errors that are ours, not the client's."""
    kinds, found = [TriadError], dict[str, None]()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.status >= 500:
            found[kind.type] = None
    return list(found)


def _gpu_memory_usage(models: Iterable[Model]) -> float | None:
    """Return the used fraction of the fullest GPU."""
    gpus = [gpu for model in models for gpu in model.facts.gpus if gpu.total]
    return max((gpu.used / gpu.total for gpu in gpus), default=None)
