"""A full queue says when to come again, and takes who does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from math import inf

import pytest

from backends.batching.queue import RequestQueue
from backends.batching.window import BatchWindow
from backends.contract.errors import Overloaded
from backends.contract.scheduling import Priority, Scheduling
from tests.support.engines import make_request

STEP_SECONDS = 0.02
MAX_SIZE = 8


@pytest.fixture
def queue() -> Iterator[RequestQueue]:
    """Return a queue of an engine that is busy, and begins a request in each step."""
    queue = RequestQueue(MAX_SIZE, lambda: 0, None, on_failed=lambda *_: None, window=BatchWindow())
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(STEP_SECONDS):
            if (request := queue.pop()) is not None:
                queue.begun(request, 1)

    engine = threading.Thread(target=run)
    engine.start()
    yield queue
    stop.set()
    engine.join()


def submit(queue: RequestQueue, scheduling: Scheduling) -> float | None:
    """Return None for a request that is taken, else the seconds after which it may come again."""
    try:
        queue.submit(make_request([1], scheduling=scheduling)[0])
    except Overloaded as error:
        return error.retry_after or 0.0
    return None


@pytest.mark.parametrize(
    "first_token_timeout", [inf, 4 * STEP_SECONDS], ids=["bounded by size", "bounded by time"]
)
def test_who_comes_again_when_he_was_told_to_is_taken(
    queue: RequestQueue, first_token_timeout: float
) -> None:
    """Four times as many callers come as can be served, each with one request."""
    due: list[tuple[float, str]] = []
    again = taken = number = 0
    end = time.monotonic() + 3
    while (now := time.monotonic()) < end:
        callers = [caller for at, caller in due if at <= now]
        due = [(at, caller) for at, caller in due if at > now]
        again += len(callers)
        number += 1
        for caller in [*callers, f"caller-{number}"]:
            wait = submit(queue, Scheduling(Priority.NORMAL, caller, first_token_timeout))
            if wait is None:
                taken += caller in callers
            elif wait:
                due.append((now + wait, caller))
        time.sleep(STEP_SECONDS / 4)
    assert again >= 10
    assert taken >= 0.8 * again, (taken, again)


def test_who_cannot_be_served_in_time_is_refused_at_once(queue: RequestQueue) -> None:
    patient = Scheduling(caller="patient")
    while not submit(queue, patient):  # the queue is full, and its speed known
        time.sleep(STEP_SECONDS / 4)
    wait = submit(queue, Scheduling(caller="patient", first_token_timeout=2 * STEP_SECONDS))
    assert wait is not None and wait > STEP_SECONDS
    assert submit(queue, Scheduling(caller="other", first_token_timeout=100)) is None


def test_an_empty_queue_has_nothing_to_give() -> None:
    """Also where the last request has been displaced since somebody looked."""
    queue = RequestQueue(MAX_SIZE, lambda: 0, None, lambda *_: None, BatchWindow())
    assert queue.first() is None
    assert queue.pop() is None
