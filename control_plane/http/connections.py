"""What connections have in common, be they in a TLS handshake or past it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable


class LimitedConnection(ABC):
    """A connection that counts among those of the server, and has a time for all that it does.

    ``since``: the loop's time at which it began to do what it does.
    """

    transport: asyncio.Transport
    since: float

    @property
    @abstractmethod
    def waits_for_a_request(self) -> bool:
        """Return whether no request has come that is not answered."""

    @abstractmethod
    def close_overdue(self, now: float) -> None:
        """Close the connection where its client has taken too long."""

    @abstractmethod
    def close_after_answer(self) -> None:
        """Let the answer to the last request that has come say that the connection is closed."""

    @abstractmethod
    def close_idle(self, since: float) -> None:
        """Close the connection where nothing has come since a time."""


def make_room(connections: Iterable[object], newcomer: LimitedConnection) -> bool:
    """Close the connection on which no request has come for the longest time. Return whether there
    was one beside the ``newcomer``."""
    others = (c for c in connections if isinstance(c, LimitedConnection) and c is not newcomer)
    waiting = [connection for connection in others if connection.waits_for_a_request]
    if waiting:
        min(waiting, key=lambda connection: connection.since).transport.abort()
    return bool(waiting)
