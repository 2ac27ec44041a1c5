"""Prometheus metrics of several servers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control_plane.cluster.instance import Instance


class InstanceMetrics(Collector):
    """The requests that each of several Triton servers gets."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._instances = instances

    def collect(self) -> Iterable[Metric]:
        label = ["instance"]
        running = GaugeMetricFamily(
            "triad_instance_running", "Requests that a Triton server has", labels=label
        )
        sent = CounterMetricFamily(
            "triad_instance_requests", "Requests sent to a Triton server", labels=label
        )
        failed = CounterMetricFamily(
            "triad_instance_failures",
            "Requests that failed at a Triton server, and were sent to another",
            labels=label,
        )
        for instance in self._instances:
            running.add_metric([instance.endpoint], instance.running)
            sent.add_metric([instance.endpoint], instance.sent)
            failed.add_metric([instance.endpoint], instance.failed)
        return running, sent, failed
