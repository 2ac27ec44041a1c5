"""The interface between the text front of encoders and what computes the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.encoder.heads import Head
from backends.encoder.tokens import Check, Row, TextTokenizer, nothing


class RowRunner(Protocol):
    """Called from several threads at once."""

    def run(self, rows: Sequence[Row], check: Check = nothing) -> NDArray[np.float32]:
        """What the model makes of each row, in their order. ``check`` is called between batches,
        and may raise to end the work. Raises `EngineError`."""

    def check(self) -> None:
        """Raises `EngineError` where it cannot serve."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """``facts``: those of `describe` that only who loaded it knows."""

    tokenizer: TextTokenizer
    head: Head
    runner: RowRunner
    facts: Mapping[str, Any]
