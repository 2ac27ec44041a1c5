"""Generation requests to tensors, and responses to text. Names are `backends.contract`'s."""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

_TRUE = b"\x01"
_UINT32 = struct.Struct("<I")
_RETURNS = ("return_finish_reason", "return_num_output_tokens")


@dataclass(frozen=True, slots=True)
class Delta:
    """What one response adds: its text, how many tokens that is, and why it is the last."""

    text: str
    tokens: int
    finish_reason: str | None = None


def generation_request(
    model: str,
    request_id: str,
    prompt: str | Sequence[Mapping[str, Any]],
    sampling: Mapping[str, Any],
    *,
    stream: bool,
) -> ModelInferRequest:
    """``prompt``: a text, or chat messages. ``sampling``: `SamplingParameters` by name."""
    request = ModelInferRequest(model_name=model, id=request_id)
    if isinstance(prompt, str):
        _add_bytes(request, "text_input", prompt.encode())
    else:
        _add_bytes(request, "messages", orjson.dumps(prompt))
    _add_sampling(request, sampling)
    _add(request, "exclude_input_in_output", "BOOL", _TRUE)
    for name in _RETURNS:
        _add(request, name, "BOOL", _TRUE)
    if stream:
        _add(request, "stream", "BOOL", _TRUE)
    return request


def _add_sampling(request: ModelInferRequest, sampling: Mapping[str, Any]) -> None:
    # Not orjson: a schema may have integers of any size; an infinity is the engine's to refuse.
    _add_bytes(request, "sampling_parameters", json.dumps(sampling).encode())


def describe_request(model: str) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id="describe")
    _add(request, "describe", "BOOL", _TRUE)
    return request


def metrics_request(model: str) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id="metrics")
    _add(request, "metrics", "BOOL", _TRUE)
    return request


def unique_id(request_id: str) -> str:
    """For Triton: clients may give one id twice, and a request is cancelled by its id."""
    return f"{request_id}.{secrets.token_hex(4)}"


def attribution_request(
    model: str, request_id: str, prompt: str, target: str | None
) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=request_id)
    _add(request, "attributions", "BOOL", _TRUE)
    _add_bytes(request, "text_input", prompt.encode())
    if target is not None:
        _add_bytes(request, "target", target.encode())
    return request


def profile_request(
    model: str, request_id: str, prompt: str, sampling: Mapping[str, Any]
) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=request_id)
    _add(request, "profile", "BOOL", _TRUE)
    _add_bytes(request, "text_input", prompt.encode())
    _add_sampling(request, sampling)
    return request


def cancel_request(model: str, request_id: str) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id="cancel")
    _add_bytes(request, "cancel", request_id.encode())
    return request


def answer(response: ModelInferResponse) -> bytes:
    """Of a request that has one response: to `describe`, `attributions`, `profile`."""
    return _first(response.raw_output_contents[0])


def delta(response: ModelInferResponse) -> Delta:
    text, tokens, finish_reason = "", 0, None
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        name = output.name
        if name == "text_output":
            text = _first(raw).decode()
        elif name == "num_output_tokens":
            tokens = _UINT32.unpack(raw)[0]
        elif name == "finish_reason" and (reason := _first(raw)) != b"None":
            finish_reason = reason.decode()
    return Delta(text, tokens, finish_reason)


def _first(raw: bytes) -> bytes:
    """The only element of a BYTES tensor: a little-endian uint32 length, then the bytes."""
    return raw[4:]


def _add_bytes(request: ModelInferRequest, name: str, value: bytes) -> None:
    _add(request, name, "BYTES", _UINT32.pack(len(value)) + value)


def _add(request: ModelInferRequest, name: str, datatype: str, raw: bytes) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=[1])
    request.raw_input_contents.append(raw)
