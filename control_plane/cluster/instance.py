"""One Triton server of several."""

from __future__ import annotations

from dataclasses import dataclass, field

from control_plane.inference.client import ModelClient
from control_plane.models.catalog import Catalog


@dataclass(eq=False, slots=True)
class Instance:
    """A Triton server. ``running``: the requests that it has from this gateway; ``sent`` and
    ``failed``: requests since the start."""

    endpoint: str
    weight: int
    client: ModelClient
    catalog: Catalog = field(init=False)
    running: int = 0
    sent: int = 0
    failed: int = 0

    def has_ready(self, model: str) -> bool:
        """Return whether it serves a model now. ``model``: Triton's name."""
        return any(m.name == model and m.ready for m in self.catalog)
