"""Embedding requests to tensors, responses to vectors."""

from __future__ import annotations

import struct

import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from backends.contract import names
from backends.contract.kinds import RequestKind
from control_plane.inference.requests import Embed
from control_plane.inference.responses import Embeddings
from control_plane.triton.tensors import UINT32, add, add_bytes, add_flag


def write(message: ModelInferRequest, request: Embed) -> None:
    """Add the input tensors of a request."""
    add_bytes(message, names.REQUEST_KIND, RequestKind.EMBED.encode())
    rows = request.rows
    if isinstance(rows[0], str):
        texts = [str(row).encode() for row in rows]
        raw = b"".join(UINT32.pack(len(text)) + text for text in texts)
        add(message, names.TEXT_INPUT, "BYTES", raw, [len(texts)])
    else:
        ids = [int(id_) for row in rows for id_ in row]
        add(message, names.INPUT_IDS, "INT32", struct.pack(f"<{len(ids)}i", *ids), [len(ids)])
        lengths = struct.pack(f"<{len(rows)}i", *map(len, rows))
        add(message, names.INPUT_LENGTHS, "INT32", lengths, [len(rows)])
    if request.truncate == -1:
        add_flag(message, names.TRUNCATE)
    elif request.truncate is not None:
        add(message, names.TRUNCATE_TOKENS, "INT32", struct.pack("<i", request.truncate))


def read(response: ModelInferResponse) -> Embeddings:
    """Return the vectors of a response."""
    outputs = [output.name for output in response.outputs]
    raw = dict(zip(outputs, response.raw_output_contents, strict=True))
    shape = response.outputs[outputs.index(names.EMBEDDING)].shape
    vectors = np.frombuffer(raw[names.EMBEDDING], "<f4").reshape(shape)
    return Embeddings(vectors, int(np.frombuffer(raw[names.NUM_INPUT_TOKENS], "<u4").sum()))
