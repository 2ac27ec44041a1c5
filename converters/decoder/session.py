"""A decoder's graph in ONNX Runtime, run the way it is served.

The graph's contract, one batch row a sequence:

- ``input_ids`` INT64 [batch, S]: S new tokens
- ``attention_mask`` INT64 [batch, any]: ones, contiguous from position 0, as many as the sequence
  has tokens after this step, then zeros
- ``past_key_values.<layer>.key``, ``.value`` FLOAT or FLOAT16 [batch, heads, context, dimension]
- to ``logits`` FLOAT [batch, 1, vocabulary] after the last token, and ``present.<layer>.…`` like
  the past, which may be the same memory
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from converters.common.errors import ConversionError

PAST, PRESENT = "past_key_values.", "present."
_DATATYPES: dict[str, np.dtype[np.generic]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One state of the graph: ``past_key_values.0.key`` and the ``present`` that it becomes."""

    past: str
    shape: tuple[int, int, int]  # heads, context, dimension
    dtype: np.dtype[np.generic]

    @property
    def present(self) -> str:
        """Return the name of the output."""
        return PRESENT + self.past.removeprefix(PAST)


class DecoderSession:
    """A session with KV buffers for ``rows`` sequences.

    ``in_place``: past and present are the same memory; otherwise two buffers take turns, as with
    Triton's implicit state.
    """

    def __init__(
        self, graph: Path, rows: int = 1, *, in_place: bool = True, threads: int = 0
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised, too
        options.intra_op_num_threads = threads
        with _translated_errors("load"):
            self._session = ort.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        self._in_place = in_place
        self.states = _read_states(self._session)
        self.context = self.states[0].shape[1]
        self.vocabulary: int = self._session.get_outputs()[0].shape[-1]
        self._past = self._buffers(rows)
        self._present = self._past if in_place else self._buffers(rows)

    def _buffers(self, rows: int) -> list[npt.NDArray[np.generic]]:
        return [np.zeros((rows, *s.shape), s.dtype) for s in self.states]

    def prefill(self, row: int, ids: Sequence[int], start: int = 0) -> Logits:
        """Compute ``ids`` from position ``start`` on. Returns the last's logits [vocabulary]."""
        tokens = np.array([ids], np.int64)
        mask = np.ones((1, start + len(ids)), np.int64)
        logits: Logits = self._run(slice(row, row + 1), tokens, mask)[0]
        return logits

    def decode(self, ids: Sequence[int], positions: Sequence[int]) -> Logits:
        """Compute a token of each of the first rows. Returns their logits [rows, vocabulary]."""
        mask = np.arange(self.context)[None] <= np.array(positions)[:, None]
        return self._run(
            slice(0, len(ids)), np.array(ids, np.int64)[:, None], mask.astype(np.int64)
        )

    def _run(self, rows: slice, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Logits:
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        for state, past, present in zip(self.states, self._past, self._present, strict=True):
            read, written = past[rows], present[rows]
            kind = state.dtype
            binding.bind_input(state.past, "cpu", 0, kind, read.shape, read.ctypes.data)
            binding.bind_output(state.present, "cpu", 0, kind, written.shape, written.ctypes.data)
        binding.bind_output("logits", "cpu")
        with _translated_errors("run"):
            self._session.run_with_iobinding(binding)
        if not self._in_place:
            for past, present in zip(self._past, self._present, strict=True):
                past[rows] = present[rows]
        logits: Logits = binding.get_outputs()[-1].numpy()
        return logits[:, -1]


@contextmanager
def _translated_errors(action: str) -> Iterator[None]:
    """Raise `ConversionError` for any exception of the block: ONNX Runtime's have no class in
    common but `Exception`."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:500]
        raise ConversionError(
            f"ONNX Runtime {ort.__version__} cannot {action} the graph: {reason}"
        ) from error


def _read_states(session: ort.InferenceSession) -> list[StateTensor]:
    """Return the states of a graph. Raises `ConversionError` when its inputs or outputs are not
    those of the contract."""
    inputs = {node.name: node for node in session.get_inputs()}
    states = [
        StateTensor(name, tuple(node.shape[1:]), _DATATYPES[node.type])
        for name, node in inputs.items()
        if name.startswith(PAST)
    ]
    expected = {"input_ids", "attention_mask", *(s.past for s in states)}
    outputs = {node.name for node in session.get_outputs()}
    if (
        not states
        or inputs.keys() != expected
        or outputs != {"logits", *(s.present for s in states)}
    ):
        raise ConversionError(
            f"the graph's inputs {sorted(inputs)} and outputs {sorted(outputs)} are not those of a "
            "decoder"
        )
    return states
