"""What others notice of hostile requests: the bounds of `tests.benchmarks.hostile`, generously, for
a machine that others use as well."""

from __future__ import annotations

import time

import psutil

from tests.support.bystander import bystander
from tests.support.hostile import Shape, body_shapes, connection_shapes
from tests.support.server import TriadServer

NAMES = (
    *("1.9M zeros", "300k unknown fields", "55k bad biases", "2M levels", "20k messages"),
    *("340k bad tokens", "one of 250k texts", "4M digits", "340k token ids", "1M chunks"),
    *("a header of 100 MB", "3k requests in one write"),
)
"""Those that end at the gateway."""
MAX_CPU = 0.6
"""Seconds of the gateway's for one; the chunks and the many requests may take five times that."""
MAX_WAIT = 3.0
"""Seconds; or five times what others wait without any attack, on a machine that is busy."""


def shapes() -> list[Shape]:
    made = (*connection_shapes(), *body_shapes())
    return [s for s in made if not s.deep and any(name in s.name for name in NAMES)]


def test_others_go_on(server: TriadServer) -> None:
    gateway = psutil.Process(server.process.pid)
    with bystander(server.port) as other:
        time.sleep(1)
        quiet = other.seen()
        max_wait = max(MAX_WAIT, 5 * quiet.worst_gap, 5 * quiet.worst_health)
        for shape in shapes():
            before = gateway.cpu_times()
            status = shape.attack(server.port)
            after = gateway.cpu_times()
            spent = after.user + after.system - before.user - before.system
            assert status[0] in "42", (shape.name, status)
            many = "chunks" in shape.name or "requests" in shape.name
            assert spent < MAX_CPU * (5 if many else 1), (shape.name, spent)
            seen = other.seen()
            assert not seen.failures, (shape.name, seen.failures)
            assert max(seen.worst_gap, seen.worst_health) < max_wait, (shape.name, seen)
    assert gateway.memory_info().rss < 700e6
