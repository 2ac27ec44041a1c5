"""The interface of the stores that hold callers' buckets and budgets.

`control_plane.admission.file_store` is for the workers of one machine,
`control_plane.admission.redis_store` for gateways on several.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from control_plane.admission.buckets import Draw, Outcome
from control_plane.admission.budgets import Charge


class LimitStoreError(Exception):
    """The error of a store that does not work now. Its message says why."""


class LimitStore(Protocol):
    """Callers' buckets and budgets, shared by all that open the same store. All methods may raise
    `LimitStoreError`."""

    async def take(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge] = ()
    ) -> Outcome:
        """Take from a caller's buckets and budgets, from all of them or from none, in one step. A
        call that is cancelled takes nothing, or gives back what it has taken."""

    def settle(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]
    ) -> Coroutine[Any, Any, object] | None:
        """Do the same for draws and charges that cannot be refused: at once, or else return what
        there is to wait for."""

    async def close(self) -> None: ...
