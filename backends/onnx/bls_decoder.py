"""A decoder graph on Triton's onnxruntime backend, called from inside the server (BLS).

The decoder is a Triton model of its own, with a batch dimension and a sequence batcher. Its KV
cache is the sequence's implicit state and never leaves it. For each sequence, one request a step:

==============  ==================  ==========================================================
input_ids       INT64 [1, S]        the sequence's new tokens
attention_mask  INT64 [1, T]        ones: as many as the sequence then has tokens; then zeros
logits          FP32 [1, 1, V]      after the last of them
==============  ==================  ==========================================================

T is S + what came before for a prompt, and the whole context for a single token: so all decode
steps have one shape, and Triton's sequence batcher joins those of different sequences.

BLS: https://github.com/triton-inference-server/python_backend#business-logic-scripting
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from backends.contract.errors import of_graph

START = 1  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
END = 2  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_END


def new_sequence_id() -> int:
    """Return a random correlation id, which no other client of the decoder has."""
    return secrets.randbits(63) | 1


class BlsDecoder:
    """A client of the decoder's Triton model.

    The methods block, may be called from any thread, and raise `GraphFailed` and
    `Overloaded`.
    """

    def __init__(self, model: str, context_length: int) -> None:
        """Create a client of a Triton model whose state has ``context_length`` tokens."""
        self._model = model
        self._context_length = context_length
        self._positions = np.arange(context_length)

    def step(
        self, sequence_id: int, ids: Sequence[int], start: int, *, first: bool
    ) -> NDArray[np.float32]:
        """Append ``ids`` to a sequence of ``start`` tokens; return the logits FP32 [V] after them.

        ``first``: whether the sequence begins with this step.
        """
        length = start + len(ids)
        width = length if len(ids) > 1 else self._context_length
        mask = (self._positions[:width] < length).astype(np.int64)
        outputs = self._call(sequence_id, np.array([ids], np.int64), mask[None], first * START)
        logits = pb_utils.get_output_tensor_by_name(outputs, "logits").as_numpy()
        return np.asarray(logits, np.float32).reshape(-1)

    def release(self, sequence_id: int) -> None:
        """End a sequence by a step whose result is not needed; the shim does not compute it."""
        self._end(sequence_id, END)

    def check(self) -> None:
        """Raise `DecoderFailed` if the decoder does not answer, by a sequence of one token."""
        self._end(new_sequence_id(), START | END)

    def _end(self, sequence_id: int, flags: int) -> None:
        mask = (self._positions < 1).astype(np.int64)
        self._call(sequence_id, np.zeros((1, 1), np.int64), mask[None], flags, release=True)

    def _call(
        self,
        sequence_id: int,
        ids: NDArray[np.int64],
        mask: NDArray[np.int64],
        flags: int,
        *,
        release: bool = False,
    ) -> Any:  # noqa: ANN401
        """Send one request and return its response. ``flags``: of the sequence batcher."""
        request = pb_utils.InferenceRequest(
            model_name=self._model,
            requested_output_names=["logits"],
            inputs=[pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)],
            correlation_id=sequence_id,
            flags=flags,
            parameters={"release": True} if release else {},
        )
        response = request.exec()
        if response.has_error():
            raise of_graph(self._model, response.error().message())
        return response
