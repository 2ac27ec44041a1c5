"""Servers in proportion to their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from control_plane.balancing.strategy import S, Strategy
from control_plane.inference.requests import InferenceRequest


class Weighted:
    """Picks servers in proportion to their weights, and mixes them evenly: weights of 5, 1, 1 give
    a a b a c a a, as nginx's smooth weighted round-robin does."""

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}  # by endpoint

    def pick(self, servers: Sequence[S], request: InferenceRequest[Any]) -> S:
        """Return the server with the most credit, which then pays for all of them."""
        for server in servers:
            self._credit[server.endpoint] = self._credit.get(server.endpoint, 0) + server.weight
        server = max(servers, key=lambda server: self._credit[server.endpoint])
        self._credit[server.endpoint] -= sum(server.weight for server in servers)
        return server


def create() -> Strategy:
    """Return a new strategy."""
    return Weighted()
