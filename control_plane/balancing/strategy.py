"""The interface of a load-balancing strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from control_plane.inference.requests import InferenceRequest


class Server(Protocol):
    """A server as a strategy sees it."""

    @property
    def endpoint(self) -> str:
        """Return the address, which names the server for good."""

    @property
    def weight(self) -> int:
        """Return the share of requests that the settings give it, at least 1."""

    @property
    def running(self) -> int:
        """Return the number of requests that it has from this gateway now."""


S = TypeVar("S", bound=Server)


class Strategy(Protocol):
    """Picks a server for each request. It may keep state: a gateway has one of it."""

    def pick(self, servers: Sequence[S], request: InferenceRequest[Any]) -> S:
        """Return one of ``servers``, of which there is at least one: those that have the request's
        model ready, without those that this request has failed at."""
