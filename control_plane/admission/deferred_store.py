"""A store that is opened when it is needed first."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from control_plane.admission.buckets import Draw, Outcome
from control_plane.admission.budgets import Charge
from control_plane.admission.store import LimitStore


class DeferredStore:
    """A store for servers of which few callers have limits, and perhaps none: these make no file,
    and start where none could be made. ``create``: may raise `LimitStoreError`."""

    def __init__(self, create: Callable[[], LimitStore]) -> None:
        self._create = create
        self._store: LimitStore | None = None

    async def take(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge] = ()
    ) -> Outcome:
        return await self._opened().take(caller, draws, charges)

    def settle(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]
    ) -> Coroutine[Any, Any, object] | None:
        return self._opened().settle(caller, draws, charges)

    def _opened(self) -> LimitStore:
        if self._store is None:
            self._store = self._create()
        return self._store

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
