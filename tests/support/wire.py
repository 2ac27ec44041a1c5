"""Triton's messages to the tensors that a model of ours gets, and a model's tensors to messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from backends.contract.tensors import TensorSpec

_NUMPY = {"BOOL": "?", "INT32": "<i4", "UINT32": "<u4", "FP32": "<f4"}
_DATATYPES = {"b": "BOOL", "i": "INT32", "u": "UINT32", "f": "FP32", "O": "BYTES"}


def inputs_of(
    message: ModelInferRequest, specs: Sequence[TensorSpec]
) -> dict[str, NDArray[np.generic]]:
    """Return the inputs as Triton gives them to the model. Fails, as Triton does, where one is not
    among ``specs``, has another datatype or shape, or bytes that do not fill the shape."""
    expected = {spec.name: spec for spec in specs}
    inputs: dict[str, NDArray[np.generic]] = {}
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        spec = expected[tensor.name]
        assert tensor.datatype == spec.datatype, tensor.name
        assert len(tensor.shape) == len(spec.dims), tensor.name
        assert all(dim in (-1, size) for dim, size in zip(spec.dims, tensor.shape, strict=True))
        assert tensor.name not in inputs
        if tensor.datatype == "BYTES":
            values = deserialize_bytes_tensor(raw)
        else:
            values = np.frombuffer(raw, _NUMPY[tensor.datatype])
        inputs[tensor.name] = values.reshape(tuple(tensor.shape))
    return inputs


def response_of(tensors: Iterable[tuple[str, NDArray[Any]]]) -> ModelInferResponse:
    """Return the message that Triton makes of a model's output tensors."""
    message = ModelInferResponse()
    for name, values in tensors:
        datatype = _DATATYPES[values.dtype.kind]
        message.outputs.add(name=name, datatype=datatype, shape=values.shape)
        written = serialize_byte_tensor(values) if datatype == "BYTES" else values
        raw = written.item() if datatype == "BYTES" else values.tobytes()
        message.raw_output_contents.append(raw)
    return message


def text_response(text: str | bytes) -> ModelInferResponse:
    """Return a response whose only output is a text."""
    data = text.encode() if isinstance(text, str) else text
    return response_of([("text_output", np.array([data], np.object_))])
