"""Embedding requests to tensors, responses to vectors."""

from __future__ import annotations

import struct

import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from control_plane.inference.requests import Embed
from control_plane.inference.responses import Embeddings
from control_plane.triton.tensors import UINT32, add, add_flag


def write(message: ModelInferRequest, request: Embed) -> None:
    """Add the input tensors of a request."""
    rows = request.rows
    if isinstance(rows[0], str):
        texts = [str(row).encode() for row in rows]
        raw = b"".join(UINT32.pack(len(text)) + text for text in texts)
        add(message, "text_input", "BYTES", raw, [len(texts)])
    else:
        ids = [int(id_) for row in rows for id_ in row]
        add(message, "input_ids", "INT32", struct.pack(f"<{len(ids)}i", *ids), [len(ids)])
        lengths = struct.pack(f"<{len(rows)}i", *map(len, rows))
        add(message, "input_lengths", "INT32", lengths, [len(rows)])
    if request.truncate == -1:
        add_flag(message, "truncate")
    elif request.truncate is not None:
        add(message, "truncate_tokens", "INT32", struct.pack("<i", request.truncate))


def read(response: ModelInferResponse) -> Embeddings:
    """Return the vectors of a response."""
    names = [output.name for output in response.outputs]
    raw = dict(zip(names, response.raw_output_contents, strict=True))
    shape = response.outputs[names.index("embedding")].shape
    vectors = np.frombuffer(raw["embedding"], "<f4").reshape(shape)
    return Embeddings(vectors, int(np.frombuffer(raw["num_input_tokens"], "<u4").sum()))
