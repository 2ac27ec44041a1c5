"""How a request is scheduled comes in tensors of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from backends.contract.errors import InvalidField
from backends.contract.scheduling import Priority, Scheduling


def of(**inputs: Any) -> Scheduling:  # noqa: ANN401
    return Scheduling.of({name: np.array(value) for name, value in inputs.items()})


def text(value: bytes) -> Any:  # noqa: ANN401
    return np.array([value], np.object_)


def test_nothing_has_to_be_said() -> None:
    assert of() == Scheduling(Priority.NORMAL, "", math.inf, math.inf)


def test_all_can_be_said() -> None:
    said = of(
        priority=text(b"low"),
        caller=text(b"4f5a"),
        first_token_timeout_ms=[1500],
        timeout_ms=[60_000],
    )
    assert said == Scheduling(Priority.LOW, "4f5a", 1.5, 60.0)


def test_classes_are_in_order() -> None:
    assert [Priority(name).rank for name in ("high", "normal", "low")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", text(b"urgent")),
        ("priority", text(b"")),
        ("caller", text(b"")),
        ("caller", text(b"a b")),
        ("caller", text(b"x" * 65)),
        ("first_token_timeout_ms", [0]),
        ("first_token_timeout_ms", [-1]),
        ("timeout_ms", [1, 2]),
    ],
)
def test_what_is_wrong_is_named(field: str, value: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidField) as refused:
        of(**{field: value})
    assert refused.value.field == field
