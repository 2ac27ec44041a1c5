"""``text_completion`` objects of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from control_plane.api.openai.logprobs import CompletionLogprobs, prompt_logprobs
from control_plane.api.openai.streams import ChoiceEvents, ChunkFrame
from control_plane.generation.result import GenerationResult
from control_plane.inference.responses import Delta

_GOES_ON = b',"logprobs":null,"finish_reason":null}'


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is returned before its continuation.

    ``first``: the text of its first token, which has no log probability. ``offsets``: where each
    token's text begins.
    """

    text: str
    first: str = ""
    offsets: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class CompletionOptions:
    """The options of what a completion has beside its text.

    ``logprobs``, ``prompt_logprobs``: alternatives to each token; None: not even the token.
    ``text``: False with ``max_tokens`` 0.
    """

    logprobs: int | None = None
    text: bool = True
    token_ids: bool = False
    prompt_logprobs: int | None = None
    tokens_as_ids: bool = False


class CompletionFields:
    """The fields of one choice but its index and finish reason, whole or in pieces."""

    def __init__(self, options: CompletionOptions, echo: Echo | None) -> None:
        self._options = options
        self._echo = echo
        self._first = True
        self._logprobs: CompletionLogprobs | None = None
        if options.logprobs is not None:
            self._logprobs = CompletionLogprobs(options.logprobs, as_ids=options.tokens_as_ids)

    def of(self, piece: Delta | GenerationResult) -> dict[str, Any]:
        options, echo = self._options, self._echo if self._first else None
        text = piece.text if options.text else ""
        fields: dict[str, Any] = {"text": text if echo is None else echo.text + text}
        fields["logprobs"] = self._logprobs_of(piece, echo)
        if options.prompt_logprobs is not None:
            scored = prompt_logprobs(piece.prompt_logprobs, options.prompt_logprobs)
            fields["prompt_logprobs"] = scored
        if options.token_ids:
            if self._first:
                fields["prompt_token_ids"] = piece.prompt_token_ids
            fields["token_ids"] = piece.token_ids if options.text else ()
        self._first = False
        return fields

    def _logprobs_of(
        self, piece: Delta | GenerationResult, echo: Echo | None
    ) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        shape = None
        if echo is not None:
            entries = piece.prompt_logprobs or ()
            shape = self._logprobs.prompt(echo.text, entries, echo.offsets, echo.first)
        return self._logprobs.push(piece, shape) if self._options.text else shape


class CompletionChoice:
    def __init__(
        self, frame: ChunkFrame, index: int, options: CompletionOptions, echo: Echo | None
    ) -> None:
        self._frame = frame
        self._opened = frame.opened(index)
        self._before = self._opened + b'"text":'
        self._fields = CompletionFields(options, echo)
        self._options = options
        self._plain = options == CompletionOptions() and echo is None

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        tail = self._frame.tail
        chunks = b""
        for delta in deltas:
            if not self._plain:
                chunks += self._encode_all(delta, tail)
            elif delta.text:
                chunks += self._before + orjson.dumps(delta.text) + _GOES_ON + tail
            if delta.finish_reason is not None:
                reason = delta.finish_reason.encode() if self._options.text else b"length"
                chunks += self._before + b'"","logprobs":null,"finish_reason":"%b"}' % reason + tail
        return chunks

    def _encode_all(self, delta: Delta, tail: bytes) -> bytes:
        fields = self._fields.of(delta)
        logprobs = fields["logprobs"]
        if not (fields["text"] or (logprobs and logprobs["tokens"]) or fields.get("token_ids")):
            return b""
        return self._opened + orjson.dumps(fields)[1:-1] + b',"finish_reason":null}' + tail


class CompletionEvents(ChoiceEvents[CompletionChoice]):
    """The events of a completion stream."""
