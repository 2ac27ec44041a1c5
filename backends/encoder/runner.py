"""The interface between `backends.encoder.served`, for requests, and what computes rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backends.encoder.heads import EncoderHead
from backends.encoder.tokens import Check, Row, TextTokenizer, nothing


class RowRunner(Protocol):
    """A model that computes rows. Its methods are called in several threads at once."""

    def run(self, rows: Sequence[Row], check: Check = nothing) -> NDArray[np.float32]:
        """Return the model's output of each row, FP32 [rows, …], in their order.

        ``check`` is called between batches, and may raise to end the work. Raises `EngineError`.
        """

    def check(self) -> None:
        """Raise `EngineError` if the model cannot serve."""

    def close(self) -> None:
        """Free what the model uses."""


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """An encoder that is ready to serve. ``facts``: the entries of `describe` that only the loader
    knows."""

    tokenizer: TextTokenizer
    head: EncoderHead
    runner: RowRunner
    facts: Mapping[str, Any]
