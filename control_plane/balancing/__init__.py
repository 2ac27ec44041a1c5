"""Load-balancing strategies: which server takes a request. Each is a module of this package."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from control_plane.balancing.strategy import Server, Strategy

__all__ = ["STRATEGIES", "Server", "Strategy", "create_strategy"]

STRATEGIES = {
    "round_robin": "RoundRobin",
    "least_connections": "LeastConnections",
    "weighted": "Weighted",
}
"""The values of `load_balancing.strategy`: a module's name, and that of its strategy's class."""


def create_strategy(name: str) -> Strategy:
    """Return a new strategy. Raises KeyError for a name that `STRATEGIES` does not have."""
    module = import_module(f"{__name__}.{name}")
    return cast(Strategy, getattr(module, STRATEGIES[name])())
