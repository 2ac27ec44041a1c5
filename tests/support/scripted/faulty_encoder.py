"""Injected faults of encoders: see `tests.support.scripted.faults`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from backends.encoder.runner import LoadedEncoder, RowRunner
from backends.encoder.served import ServedEncoder
from backends.encoder.tokens import Check, Row, nothing
from backends.serving.model import ModelOptions
from tests.support.scripted.faults import CLASSES, fault

MARK = 77
"""The ids ``[MARK, MARK, n]`` fail with the class of number n in `CLASSES`."""


class FaultyRunner:
    """A `RowRunner` that fails marked rows, and leaves all others to another runner."""

    def __init__(self, runner: RowRunner) -> None:
        self._runner = runner

    def run(self, rows: Sequence[Row], check: Check = nothing) -> NDArray[np.float32]:
        ids = list(rows[0]["input_ids"])
        if ids[:2] == [MARK, MARK]:
            raise fault(list(CLASSES)[ids[2]])
        return self._runner.run(rows, check)

    def check(self) -> None:
        self._runner.check()

    def close(self) -> None:
        self._runner.close()


class FaultyEncoder(ServedEncoder):
    """The base that puts faults in front of the runner of the class beside it."""

    def load(self, options: ModelOptions) -> LoadedEncoder:
        loaded = super().load(options)  # type: ignore[safe-super]
        return replace(loaded, runner=FaultyRunner(loaded.runner))
