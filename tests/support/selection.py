"""Which tests are ``fast``: those that run in their own process, without a server.

A test in one of `FOLDERS` is marked ``fast`` unless it uses one of the fixtures of `SERVERS` or is
marked ``process``, as one is that starts a process by itself. The rule is enforced: a fast test
that starts a process fails, and the message says which mark it lacks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

FAST, PROCESS = "fast", "process"
FOLDERS = ("control_plane/",)
SERVERS = frozenset(
    {
        "server",
        "running",
        "debug_server",
        "others_server",
        "vllm_server",
        "start_server",
        "redis",
    }
)
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec"})


def mark(item: pytest.Item, path: str) -> None:
    """Mark ``item`` as fast where it is. ``path``: of its file in `tests`."""
    fixtures = getattr(item, "fixturenames", ())
    starts = not SERVERS.isdisjoint(fixtures) or item.get_closest_marker(PROCESS) is not None
    if path.startswith(FOLDERS) and not starts:
        item.add_marker(FAST)


class ProcessGuard:
    """An audit hook that fails whatever starts a process while a fast test runs.

    A hook cannot be removed, so that there is one for a run: install it once.
    """

    def __init__(self) -> None:
        self._active = False
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self, item: pytest.Item) -> Iterator[None]:
        """Watch ``item`` with the fixtures that it sets up, if it is fast."""
        self._active = item.get_closest_marker(FAST) is not None
        try:
            yield
        finally:
            self._active = False

    def _audit(self, event: str, _: object) -> None:
        if self._active and event in _STARTS:
            self._active = False  # so that the report of the failure may start one
            raise AssertionError(f"a fast test starts a process ({event}): mark it `{PROCESS}`")
