"""Load-balancing strategies: which server takes a request.

A strategy is one module of this package, named as `load_balancing.strategy` names it, with the
function ``create``. Its name in `LoadBalancingSettings.strategy` makes it known; nothing else lists
the strategies.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from control_plane.balancing.strategy import Server, Strategy

__all__ = ["Server", "Strategy", "create_strategy"]


def create_strategy(name: str) -> Strategy:
    """Return a new strategy of this name."""
    return cast(Strategy, import_module(f"{__name__}.{name}").create())
