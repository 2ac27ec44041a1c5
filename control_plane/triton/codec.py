"""The gateway's requests to messages of Triton's, and its responses to ours.

Tensors and kinds of requests are those of `backends.contract`.
"""

from __future__ import annotations

import json
import math
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import orjson
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from backends.contract import names
from backends.contract.facts import FactsError, ModelFacts
from backends.contract.kinds import RequestKind
from backends.contract.scheduling import MAX_TIMEOUT_MS, Priority, Scheduling
from control_plane.errors import EngineFailed
from control_plane.inference.prompts import Chat, Prompt, Text, TokenIds
from control_plane.inference.requests import (
    Attribute,
    Describe,
    DescribeTokenizer,
    Detokenize,
    Embed,
    Encode,
    Generate,
    InferenceRequest,
    Profile,
    ReadMetrics,
    Tokenize,
)
from control_plane.inference.responses import Delta, Tokens
from control_plane.triton import embedding_codec
from control_plane.triton.tensors import FALSE, TRUE, add, add_bytes, add_flag, int32s

T = TypeVar("T")

_NO_REASON = b"\4\0\0\0None"
_ALWAYS_RETURNED = (
    names.FINISH_REASON,
    names.NUM_OUTPUT_TOKENS,
    names.QUEUE_DEPTH,
    names.QUEUE_WAIT_MS,
)


def unique_id(request_id: str) -> str:
    """Return an id for Triton: clients may give one id twice, and a request is cancelled by it."""
    return f"{request_id}.{secrets.token_hex(4)}"


def encode(request: InferenceRequest[Any], wire_id: str) -> ModelInferRequest:
    """Return the message that asks Triton what ``request`` asks."""
    message = ModelInferRequest(model_name=request.model, id=wire_id)
    write, _ = _CODECS[type(request)]
    write(message, request)
    return message


def decoder(request: InferenceRequest[T]) -> Callable[[ModelInferResponse], T]:
    """Return what reads the responses to ``request``."""
    _, read = _CODECS[type(request)]
    return cast(Callable[[ModelInferResponse], T], read)


def cancellation(model: str, wire_id: str) -> ModelInferRequest:
    """Return the message that asks a model to end a request."""
    message = ModelInferRequest(model_name=model, id="cancel")
    _add_kind(message, RequestKind.CANCEL)
    add_bytes(message, names.CANCEL_ID, wire_id.encode())
    return message


# --- requests -----------------------------------------------------------------------------------


def _write_generate(message: ModelInferRequest, request: Generate) -> None:
    _add_prompt(message, request.prompt)
    _add_sampling(message, request.sampling)
    add_flag(message, names.EXCLUDE_INPUT_IN_OUTPUT)
    for name in (*_ALWAYS_RETURNED, *request.returns):
        add_flag(message, names.return_flag(name))
    if request.stream:
        add_flag(message, names.STREAM)
    if request.resume_token_ids:
        _add_int32s(message, names.RESUME_TOKEN_IDS, request.resume_token_ids)
    _add_scheduling(message, request.scheduling)


def _write_encode(message: ModelInferRequest, request: Encode) -> None:
    _add_prompt(message, request.prompt)
    _add_kind(message, RequestKind.TOKENIZE)
    add_flag(message, names.return_flag(names.PROMPT_TOKEN_IDS))


def _write_tokenize(message: ModelInferRequest, request: Tokenize) -> None:
    _add_prompt(message, request.prompt)
    _add_kind(message, RequestKind.TOKENIZE)
    if request.offsets:
        add_flag(message, names.return_flag(names.TEXT_OFFSETS))


def _write_detokenize(message: ModelInferRequest, request: Detokenize) -> None:
    _add_int32s(message, names.PROMPT_TOKEN_IDS, request.ids)
    _add_kind(message, RequestKind.DETOKENIZE)


def _write_attribute(message: ModelInferRequest, request: Attribute) -> None:
    _add_kind(message, RequestKind.ATTRIBUTIONS)
    add_bytes(message, names.TEXT_INPUT, request.prompt.encode())
    if request.target is not None:
        add_bytes(message, names.TARGET, request.target.encode())


def _write_profile(message: ModelInferRequest, request: Profile) -> None:
    _add_kind(message, RequestKind.PROFILE)
    add_bytes(message, names.TEXT_INPUT, request.prompt.encode())
    _add_sampling(message, request.sampling)


def _add_kind(message: ModelInferRequest, kind: RequestKind) -> None:
    add_bytes(message, names.REQUEST_KIND, kind.encode())


def _add_prompt(message: ModelInferRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        add_bytes(message, names.TEXT_INPUT, prompt.encode())
    elif isinstance(prompt, Text):
        add_bytes(message, names.TEXT_INPUT, prompt.text.encode())
        if not prompt.add_special_tokens:
            add(message, names.ADD_SPECIAL_TOKENS, "BOOL", FALSE)
    elif isinstance(prompt, TokenIds):
        _add_int32s(message, names.PROMPT_TOKEN_IDS, prompt.ids)
        if prompt.in_reasoning:
            add_flag(message, names.IN_REASONING)
    else:
        _add_chat(message, prompt if isinstance(prompt, Chat) else Chat(prompt))


def _add_chat(message: ModelInferRequest, chat: Chat) -> None:
    add_bytes(message, names.MESSAGES, _json(chat.messages))
    if chat.tools:
        add_bytes(message, names.TOOLS, _json(chat.tools))
    if chat.options:
        add_bytes(message, names.CHAT_TEMPLATE_OPTIONS, _json(chat.options))
    if chat.add_special_tokens:
        add_flag(message, names.ADD_SPECIAL_TOKENS)


def _add_sampling(message: ModelInferRequest, sampling: Mapping[str, Any]) -> None:
    add_bytes(message, names.SAMPLING_PARAMETERS, _json(sampling))


def _add_scheduling(message: ModelInferRequest, scheduling: Scheduling) -> None:
    if scheduling.priority is not Priority.NORMAL:
        add_bytes(message, names.PRIORITY, scheduling.priority.encode())
    if scheduling.caller:
        add_bytes(message, names.CALLER, scheduling.caller.encode())
    for name, seconds in (
        (names.FIRST_TOKEN_TIMEOUT_MS, scheduling.first_token_timeout),
        (names.TIMEOUT_MS, scheduling.timeout),
    ):
        if seconds != math.inf:
            milliseconds = min(math.ceil(seconds * 1000), MAX_TIMEOUT_MS)
            _add_int32s(message, name, [milliseconds])


def _add_int32s(message: ModelInferRequest, name: str, values: Sequence[int]) -> None:
    add(message, name, "INT32", struct.pack(f"<{len(values)}i", *values), shape=[len(values)])


def _json(value: object) -> bytes:
    # Not orjson: integers, of a schema for one, may be of any size.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --- responses ----------------------------------------------------------------------------------


def _delta(response: ModelInferResponse) -> Delta:
    delta = Delta("", 0)
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        name = output.name
        if name == names.TEXT_OUTPUT:
            delta.text = raw[4:].decode()
        elif name == names.NUM_OUTPUT_TOKENS:
            delta.tokens = int.from_bytes(raw, "little")
        elif name == names.FINISH_REASON:
            delta.finish_reason = None if raw == _NO_REASON else raw[4:].decode()
        elif name == names.NUM_INPUT_TOKENS:
            delta.prompt_tokens = int.from_bytes(raw, "little")
        elif name in (names.LOGPROBS, names.PROMPT_LOGPROBS):
            setattr(delta, name, orjson.loads(raw[4:]))
        elif name == names.QUEUE_DEPTH:
            delta.queue_depth = int.from_bytes(raw, "little")
        elif name == names.QUEUE_WAIT_MS:
            delta.queue_wait = int.from_bytes(raw, "little") / 1000
        elif name == names.IN_REASONING:
            delta.in_reasoning = raw == TRUE
        elif name in (names.TOKEN_IDS, names.TEXT_OFFSETS, names.PROMPT_TOKEN_IDS):
            setattr(delta, name, int32s(raw))
    return delta


def _token_ids(response: ModelInferResponse) -> TokenIds:
    delta = _delta(response)
    return TokenIds(delta.prompt_token_ids, delta.in_reasoning)


def _tokens(response: ModelInferResponse) -> Tokens:
    answer = _object(response)
    return Tokens(
        answer["token_ids"], answer["texts"], answer["tokens"], answer.get("text_offsets", [])
    )


def _facts(response: ModelInferResponse) -> ModelFacts:
    try:
        return ModelFacts.from_json(_bytes(response))
    except FactsError as error:
        raise EngineFailed(f"its description cannot be read: {error}") from None


def _object(response: ModelInferResponse) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(_bytes(response))
    return answer


def _text(response: ModelInferResponse) -> str:
    return _bytes(response).decode()


def _bytes(response: ModelInferResponse) -> bytes:
    """Return the only element of the first output, a BYTES tensor: it has four bytes of length."""
    raw: bytes = response.raw_output_contents[0]
    return raw[4:]


_CODECS: Mapping[
    type[InferenceRequest[Any]],
    tuple[Callable[[ModelInferRequest, Any], None], Callable[[ModelInferResponse], Any]],
] = {
    Generate: (_write_generate, _delta),
    Encode: (_write_encode, _token_ids),
    Tokenize: (_write_tokenize, _tokens),
    Detokenize: (_write_detokenize, _text),
    DescribeTokenizer: (lambda message, _: _add_kind(message, RequestKind.TOKENIZER_INFO), _object),
    Describe: (lambda message, _: _add_kind(message, RequestKind.DESCRIBE), _facts),
    ReadMetrics: (lambda message, _: _add_kind(message, RequestKind.METRICS), _text),
    Attribute: (_write_attribute, _object),
    Profile: (_write_profile, _bytes),
    Embed: (embedding_codec.write, embedding_codec.read),
}
"""How each kind of request is written, and how its responses are read."""
