"""The server with the fewest requests for its weight."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from control_plane.balancing.strategy import S, Strategy
from control_plane.inference.requests import InferenceRequest


class LeastConnections:
    """Picks the server with the fewest running requests for its weight; of equals, the one that
    was picked the longest time ago."""

    def __init__(self) -> None:
        self._turns = count(1)
        self._last: dict[str, int] = {}  # each endpoint's last turn

    def pick(self, servers: Sequence[S], request: InferenceRequest[Any]) -> S:
        """Return the least loaded server."""
        server = min(
            servers,
            key=lambda server: (
                server.running / server.weight,
                self._last.get(server.endpoint, 0),
            ),
        )
        self._last[server.endpoint] = next(self._turns)
        return server


def create() -> Strategy:
    """Return a new strategy."""
    return LeastConnections()
