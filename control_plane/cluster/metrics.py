"""Prometheus metrics of several servers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class InstanceMetrics:
    """The requests that each of several Triton servers gets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        label = ["instance"]
        self.running = Gauge(
            "triad_instance_running",
            "Requests that a Triton server has",
            label,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.sent = Counter(
            "triad_instance_requests", "Requests sent to a Triton server", label, registry=registry
        )
        self.failed = Counter(
            "triad_instance_failures",
            "Requests that failed at a Triton server, and were sent to another",
            label,
            registry=registry,
        )
