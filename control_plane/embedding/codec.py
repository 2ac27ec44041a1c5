"""Embedding requests to tensors, responses to vectors. Names: `contract.names`'s."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from backends.contract import names
from backends.contract.kinds import RequestKind

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """``vectors``: FP32 [rows, dimension]. ``tokens``: of all rows together."""

    vectors: NDArray[np.float32]
    tokens: int


def embedding_request(
    model: str,
    request_id: str,
    rows: Sequence[str] | Sequence[Sequence[int]],
    truncate: int | None,
) -> ModelInferRequest:
    """``rows``: texts, or each row's token ids. ``truncate``: tokens after which rows are cut, -1
    for as many as the model takes; None: such rows are refused."""
    request = ModelInferRequest(model_name=model, id=request_id)
    kind = RequestKind.EMBED.encode()
    _add(request, names.REQUEST_KIND, "BYTES", 1, _LENGTH.pack(len(kind)) + kind)
    if isinstance(rows[0], str):
        texts = [str(row).encode() for row in rows]
        raw = b"".join(_LENGTH.pack(len(text)) + text for text in texts)
        _add(request, names.TEXT_INPUT, "BYTES", len(texts), raw)
    else:
        ids = [int(id_) for row in rows for id_ in row]
        _add(request, names.INPUT_IDS, "INT32", len(ids), struct.pack(f"<{len(ids)}i", *ids))
        lengths = struct.pack(f"<{len(rows)}i", *map(len, rows))
        _add(request, names.INPUT_LENGTHS, "INT32", len(rows), lengths)
    if truncate == -1:
        _add(request, names.TRUNCATE, "BOOL", 1, b"\x01")
    elif truncate is not None:
        _add(request, names.TRUNCATE_TOKENS, "INT32", 1, struct.pack("<i", truncate))
    return request


def embeddings(response: ModelInferResponse) -> Embeddings:
    outputs = [output.name for output in response.outputs]
    raw = dict(zip(outputs, response.raw_output_contents, strict=True))
    shape = response.outputs[outputs.index(names.EMBEDDING)].shape
    vectors = np.frombuffer(raw[names.EMBEDDING], "<f4").reshape(shape)
    return Embeddings(vectors, int(np.frombuffer(raw[names.NUM_INPUT_TOKENS], "<u4").sum()))


def _add(request: ModelInferRequest, name: str, datatype: str, elements: int, raw: bytes) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=[elements])
    request.raw_input_contents.append(raw)
