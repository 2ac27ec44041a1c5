"""Bounds on CPU time that hold on a busy machine too: they compare measurements of one run."""

from __future__ import annotations

import time
from collections.abc import Callable

ATTEMPTS = 15
SLACK = 0.01
"""Seconds: of what is over as soon as this, nobody can say how it grows."""


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time that this thread takes for ``work``."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def assert_linear(work: Callable[[int], object], size: int, times: int = 2) -> None:
    """Assert that ``work`` of ``times`` the size takes about ``times`` as long, and not its square.

    Another process may disturb a measurement, so that one of `ATTEMPTS` has to say so. The least of
    all measurements counts: they get better, so that a quadratic time is never taken for another.
    """
    once = longer = float("inf")
    for _ in range(ATTEMPTS):
        once = min(once, cpu_seconds(lambda: work(size)))
        longer = min(longer, cpu_seconds(lambda: work(times * size)))
        if longer < 0.5 * (times + times**2) * once + SLACK:
            return
    raise AssertionError(f"{longer:.3f} s for {times} times the size, which took {once:.3f} s")
