"""What a process is generating, and whether it is about to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from control_plane.errors import ShuttingDown, TriadError

if TYPE_CHECKING:
    from control_plane.generation.generation import Generation


class Generations:
    """The generations that run in this process, with whichever settings they began.

    ``draining``: the server is about to stop, so that readiness says no; what comes is still
    served. ``closed``: nothing begins any more.
    """

    def __init__(self) -> None:
        self.running: set[Generation] = set()
        self.draining = False
        self.closed = False

    def raise_if_closed(self) -> None:
        """Raise `ShuttingDown` once nothing may begin any more."""
        if self.closed:
            raise ShuttingDown("the server is shutting down")

    def close(self, error: TriadError) -> None:
        """End all generations with ``error``, and let none begin."""
        self.closed = True
        for generation in list(self.running):
            generation.abort(error)
