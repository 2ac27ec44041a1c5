"""What callers have used of their budgets, for the operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from control_plane.admission.budgets import Budget, Charge
from control_plane.admission.file_store import limits_file
from control_plane.admission.rate_limits import open_store
from control_plane.admission.store import LimitStoreError
from control_plane.settings import ServingSettings


async def tokens_used(
    settings: ServingSettings, budgets: Mapping[str, Sequence[Budget]]
) -> Mapping[str, Sequence[int]]:
    """Return the tokens that are used or reserved of each caller's budgets. It is empty where the
    store does not work, or is a file that no server has made."""
    if settings.rate_limiting.redis_url is None and not limits_file(settings).is_file():
        return {}
    try:
        store = open_store(settings)
        try:
            return {
                caller: (await store.take(caller, [], [Charge(b, 0) for b in its])).used
                for caller, its in budgets.items()
            }
        finally:
            await store.close()
    except LimitStoreError:
        return {}
