"""Generation requests to tensors, and responses to text. Names are `contract.names`'s."""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from backends.contract import names
from backends.contract.kinds import RequestKind

_TRUE, _FALSE = b"\x01", b"\x00"
_UINT32 = struct.Struct("<I")
_NO_REASON = b"\4\0\0\0None"
_RETURNS = (names.FINISH_REASON, names.NUM_OUTPUT_TOKENS)


@dataclass(slots=True)  # not frozen: that would triple the time it takes to make one
class Delta:
    """What one response adds: its text, how many tokens that is, and why it is the last."""

    text: str
    tokens: int
    finish_reason: str | None = None
    prompt_tokens: int = 0  # this and what follows come only where they were asked for
    logprobs: list[Entry] | None = None
    prompt_logprobs: list[Entry | None] | None = None
    in_reasoning: bool = False
    token_ids: Sequence[int] = ()
    text_offsets: Sequence[int] = ()
    prompt_token_ids: Sequence[int] = ()


Entry: TypeAlias = dict[str, dict[str, Any]]
"""One token's log probability and its alternatives', by token id: the token itself comes first."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt that the model's chat template makes. ``options``: `contract.chat.ChatOptions`."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    add_special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt that is token ids already. ``in_reasoning``: it ends inside of a block of it."""

    ids: Sequence[int]
    in_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt whose beginning-of-sequence token may be left out."""

    text: str
    add_special_tokens: bool = True


Prompt: TypeAlias = str | Text | TokenIds | Chat | Sequence[Mapping[str, Any]]
"""A text, or a list of chat messages, where no more is to be said about it."""


def generation_request(
    model: str,
    request_id: str,
    prompt: Prompt,
    sampling: Mapping[str, Any],
    *,
    stream: bool,
    returns: Sequence[str] = (),
) -> ModelInferRequest:
    """``sampling``: `SamplingParameters` by name. ``returns``: names of further outputs."""
    request = ModelInferRequest(model_name=model, id=request_id)
    _add_prompt(request, prompt)
    _add_sampling(request, sampling)
    _add(request, names.EXCLUDE_INPUT_IN_OUTPUT, "BOOL", _TRUE)
    for name in (*_RETURNS, *returns):
        _add(request, names.return_flag(name), "BOOL", _TRUE)
    if stream:
        _add(request, names.STREAM, "BOOL", _TRUE)
    return request


def _add_sampling(request: ModelInferRequest, sampling: Mapping[str, Any]) -> None:
    _add_bytes(request, names.SAMPLING_PARAMETERS, _json(sampling))


def _json(value: object) -> bytes:
    # Not orjson: integers, of a schema for one, may be of any size.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _add_prompt(request: ModelInferRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        _add_bytes(request, names.TEXT_INPUT, prompt.encode())
    elif isinstance(prompt, Text):
        _add_bytes(request, names.TEXT_INPUT, prompt.text.encode())
        if not prompt.add_special_tokens:
            _add(request, names.ADD_SPECIAL_TOKENS, "BOOL", _FALSE)
    elif isinstance(prompt, TokenIds):
        ids = prompt.ids
        _add(
            *(request, names.PROMPT_TOKEN_IDS, "INT32"),
            struct.pack(f"<{len(ids)}i", *ids),
            shape=[len(ids)],
        )
        if prompt.in_reasoning:
            _add(request, names.IN_REASONING, "BOOL", _TRUE)
    else:
        _add_chat(request, prompt if isinstance(prompt, Chat) else Chat(prompt))


def _add_chat(request: ModelInferRequest, chat: Chat) -> None:
    _add_bytes(request, names.MESSAGES, _json(chat.messages))
    if chat.tools:
        _add_bytes(request, names.TOOLS, _json(chat.tools))
    if chat.options:
        _add_bytes(request, names.CHAT_TEMPLATE_OPTIONS, _json(chat.options))
    if chat.add_special_tokens:
        _add(request, names.ADD_SPECIAL_TOKENS, "BOOL", _TRUE)


def tokenize_request(
    model: str, request_id: str, prompt: Prompt, *, offsets: bool = False
) -> ModelInferRequest:
    """Answered by ``{"token_ids", "texts", "text_offsets"}`` as JSON, the last one where asked."""
    request = ModelInferRequest(model_name=model, id=request_id)
    _add_prompt(request, prompt)
    _add_kind(request, RequestKind.TOKENIZE)
    if offsets:
        _add(request, names.return_flag(names.TEXT_OFFSETS), "BOOL", _TRUE)
    return request


def encode_request(model: str, request_id: str, prompt: Prompt) -> ModelInferRequest:
    """Answered by the outputs `prompt_token_ids` and `in_reasoning`: see `delta`."""
    request = tokenize_request(model, request_id, prompt)
    _add(request, names.return_flag(names.PROMPT_TOKEN_IDS), "BOOL", _TRUE)
    return request


def tokenizer_info_request(model: str, request_id: str) -> ModelInferRequest:
    """Answered by what the tokenizer is, as JSON."""
    request = ModelInferRequest(model_name=model, id=request_id)
    _add_kind(request, RequestKind.TOKENIZER_INFO)
    return request


def detokenize_request(model: str, request_id: str, ids: Sequence[int]) -> ModelInferRequest:
    """Answered by the text, with its special tokens."""
    request = ModelInferRequest(model_name=model, id=request_id)
    _add_prompt(request, TokenIds(ids))
    _add_kind(request, RequestKind.DETOKENIZE)
    return request


def describe_request(model: str) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=RequestKind.DESCRIBE)
    _add_kind(request, RequestKind.DESCRIBE)
    return request


def metrics_request(model: str) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=RequestKind.METRICS)
    _add_kind(request, RequestKind.METRICS)
    return request


def unique_id(request_id: str) -> str:
    """For Triton: clients may give one id twice, and a request is cancelled by its id."""
    return f"{request_id}.{secrets.token_hex(4)}"


def attribution_request(
    model: str, request_id: str, prompt: str, target: str | None
) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=request_id)
    _add_kind(request, RequestKind.ATTRIBUTIONS)
    _add_bytes(request, names.TEXT_INPUT, prompt.encode())
    if target is not None:
        _add_bytes(request, names.TARGET, target.encode())
    return request


def profile_request(
    model: str, request_id: str, prompt: str, sampling: Mapping[str, Any]
) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=request_id)
    _add_kind(request, RequestKind.PROFILE)
    _add_bytes(request, names.TEXT_INPUT, prompt.encode())
    _add_sampling(request, sampling)
    return request


def cancel_request(model: str, request_id: str) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=RequestKind.CANCEL)
    _add_kind(request, RequestKind.CANCEL)
    _add_bytes(request, names.CANCEL_ID, request_id.encode())
    return request


def is_generation(request: ModelInferRequest) -> bool:
    """Return whether tokens are asked for, rather than one answer."""
    # An absent kind is a generation.
    return all(tensor.name != names.REQUEST_KIND for tensor in request.inputs)


def ask_for_token_ids(request: ModelInferRequest) -> None:
    """For `token_ids`, and then for `resumed`."""
    asked = names.return_flag(names.TOKEN_IDS)
    if all(tensor.name != asked for tensor in request.inputs):
        _add(request, asked, "BOOL", _TRUE)


def token_ids(response: ModelInferResponse) -> Sequence[int]:
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == names.TOKEN_IDS:
            return _int32s(raw)
    return ()


def _int32s(raw: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(raw) // 4}i", raw)


def renewed(request: ModelInferRequest) -> ModelInferRequest:
    """The same, to be sent again: with an id of its own."""
    copy = ModelInferRequest()
    copy.CopyFrom(request)
    copy.id = unique_id(request.id.rpartition(".")[0])
    return copy


def resumed(request: ModelInferRequest, ids: Sequence[int]) -> ModelInferRequest:
    """The same, to go on behind the tokens that have come."""
    copy = renewed(request)
    _add(
        *(copy, names.RESUME_TOKEN_IDS, "INT32"),
        struct.pack(f"<{len(ids)}i", *ids),
        shape=[len(ids)],
    )
    return copy


def answer(response: ModelInferResponse) -> bytes:
    """Of a request that has one response: to `describe`, `attributions`, `profile`."""
    return _first(response.raw_output_contents[0])


def delta(response: ModelInferResponse) -> Delta:
    found = Delta("", 0)
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        name = output.name
        if name == names.TEXT_OUTPUT:
            found.text = raw[4:].decode()
        elif name == names.NUM_OUTPUT_TOKENS:
            found.tokens = int.from_bytes(raw, "little")
        elif name == names.FINISH_REASON:
            found.finish_reason = None if raw == _NO_REASON else raw[4:].decode()
        elif name == names.NUM_INPUT_TOKENS:
            found.prompt_tokens = int.from_bytes(raw, "little")
        elif name in (names.LOGPROBS, names.PROMPT_LOGPROBS):
            setattr(found, name, orjson.loads(_first(raw)))
        elif name == names.IN_REASONING:
            found.in_reasoning = raw == _TRUE
        elif name in (names.TOKEN_IDS, names.TEXT_OFFSETS, names.PROMPT_TOKEN_IDS):
            setattr(found, name, _int32s(raw))
    return found


def _first(raw: bytes) -> bytes:
    """The only element of a BYTES tensor: a little-endian uint32 length, then the bytes."""
    return raw[4:]


def _add_kind(request: ModelInferRequest, kind: RequestKind) -> None:
    _add_bytes(request, names.REQUEST_KIND, kind.encode())


def _add_bytes(request: ModelInferRequest, name: str, value: bytes) -> None:
    _add(request, name, "BYTES", _UINT32.pack(len(value)) + value)


def _add(
    request: ModelInferRequest, name: str, datatype: str, raw: bytes, shape: Sequence[int] = (1,)
) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)
