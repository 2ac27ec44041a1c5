"""Slots are given out, given back, and never shared."""

from __future__ import annotations

import pytest

from backends.contract.errors import InvalidField, Overloaded
from backends.onnxruntime_shim.sequences import SequenceTable


def test_the_lowest_free_slot_first() -> None:
    table = SequenceTable(3, idle_seconds=1)
    a, b, c = (table.start(id_, now=0) for id_ in ("a", 2, 3))
    assert (a.slot, b.slot, c.slot) == (0, 1, 2)
    table.end(b)
    table.end(a)
    assert table.start(4, now=0).slot == 0
    assert table.start("2", now=0).slot == 1
    with pytest.raises(Overloaded, match="all 3 sequence slots are in use"):
        table.start(6, now=0)


def test_an_idle_sequence_expires_but_not_while_it_runs() -> None:
    table = SequenceTable(1, idle_seconds=1)
    sequence = table.start(1, now=0)
    sequence.running = True
    assert table.find(1, now=5) is sequence
    sequence.running = False
    assert table.find(1, now=5.9) is sequence
    with pytest.raises(InvalidField, match=r"sequence 1: is not known.*idle for 1 s"):
        table.find(1, now=7)
    assert table.start(2, now=7).slot == 0


def test_a_sequence_that_triton_has_given_up_makes_room() -> None:
    """It counts from the arrival of a request, which may be long before its answer."""
    table = SequenceTable(1, idle_seconds=1)
    table.start(1, now=0).used = 0.9
    with pytest.raises(Overloaded):
        table.start(2, now=0.95)
    assert table.start(2, now=1.05).slot == 0
    assert [sequence.id for sequence in table.live] == [2]


def test_start_again_and_a_late_end() -> None:
    table = SequenceTable(2, idle_seconds=1)
    first = table.start(1, now=0)
    again = table.start(1, now=0)
    table.end(first)
    assert table.find(1, now=0) is again
    assert len(table) == 1


def test_move() -> None:
    table = SequenceTable(3, idle_seconds=1)
    sequences = [table.start(id_, now=0) for id_ in range(1, 4)]
    table.end(sequences[1])
    assert table.lowest_free_above(0) == 1
    table.move(sequences[2], 1)
    assert table.lowest_free_above(0) == 2
    assert table.start(9, now=0).slot == 2
