"""One Triton server of several."""

from __future__ import annotations

from dataclasses import dataclass, field

from control_plane.cluster.metrics import InstanceMetrics
from control_plane.inference.client import ModelClient
from control_plane.models.catalog import Catalog


@dataclass(eq=False, slots=True)
class Instance:
    """A Triton server. ``running``: the requests that it has from this process; ``sent`` and
    ``failed``: requests since the start. ``metrics``: where they are counted as well."""

    endpoint: str
    weight: int
    client: ModelClient
    catalog: Catalog = field(init=False)
    running: int = 0
    sent: int = 0
    failed: int = 0
    metrics: InstanceMetrics | None = None

    def has_ready(self, model: str) -> bool:
        """Return whether it serves a model now. ``model``: Triton's name."""
        return any(m.name == model and m.ready for m in self.catalog)

    def count_in(self, metrics: InstanceMetrics) -> None:
        """Count requests in ``metrics`` from now on, which show that there were none so far."""
        self.metrics = metrics
        for series in (metrics.running, metrics.sent, metrics.failed):
            series.labels(self.endpoint)

    def begun(self) -> None:
        """Take note of a request that is sent."""
        self.running += 1
        self.sent += 1
        if self.metrics is not None:
            self.metrics.running.labels(self.endpoint).inc()
            self.metrics.sent.labels(self.endpoint).inc()

    def ended(self) -> None:
        """Take note of a request that runs no more."""
        self.running -= 1
        if self.metrics is not None:
            self.metrics.running.labels(self.endpoint).dec()

    def has_failed(self) -> None:
        """Take note of a request that is sent to another server instead."""
        self.failed += 1
        if self.metrics is not None:
            self.metrics.failed.labels(self.endpoint).inc()
