"""Tensors in messages of Triton's, as raw bytes.

https://github.com/kserve/kserve/blob/master/docs/predict-api/v2/required_api.md#tensor-data
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tritonclient.grpc.service_pb2 import ModelInferRequest

TRUE, FALSE = b"\x01", b"\x00"
UINT32 = struct.Struct("<I")
"""The length of a BYTES tensor's element, which stands before it."""


def add(
    message: ModelInferRequest, name: str, datatype: str, raw: bytes, shape: Sequence[int] = (1,)
) -> None:
    """Add an input tensor to a request."""
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_input_contents.append(raw)


def add_bytes(message: ModelInferRequest, name: str, value: bytes) -> None:
    """Add a BYTES tensor of one element."""
    add(message, name, "BYTES", UINT32.pack(len(value)) + value)


def add_flag(message: ModelInferRequest, name: str) -> None:
    """Add a BOOL tensor that is true."""
    add(message, name, "BOOL", TRUE)


def int32s(raw: bytes) -> tuple[int, ...]:
    """Return the elements of an INT32 tensor."""
    return struct.unpack(f"<{len(raw) // 4}i", raw)
