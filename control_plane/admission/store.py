"""The interface of the stores that hold callers' buckets.

`control_plane.admission.file_store` is for the workers of one machine,
`control_plane.admission.redis_store` for gateways on several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from control_plane.admission.buckets import Draw, Outcome


class LimitStoreError(Exception):
    """The error of a store that does not work now. Its message says why."""


class LimitStore(Protocol):
    """Callers' buckets, shared by all that open the same store. Both methods may raise
    `LimitStoreError`."""

    async def take(self, caller: str, draws: Sequence[Draw]) -> Outcome:
        """Make all draws on a caller's buckets, or none of them, in one step. A call that is
        cancelled takes nothing, or gives back what it has taken."""

    async def close(self) -> None: ...
