"""``chat.completion.chunk`` objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from control_plane.api.openai.chat.answer_reader import AnswerReader
from control_plane.api.openai.chat.parts import (
    AnswerParser,
    CallArguments,
    CallStart,
    Content,
    Part,
    Reasoning,
)
from control_plane.api.openai.streams import ChoiceEvents, ChunkFrame
from control_plane.inference.responses import Delta

_ROLE = b'{"role":"assistant","content":""}'
_GOES_ON = b',"logprobs":null,"finish_reason":null}'


class ChatChoice:
    """The chunks of one answer."""

    def __init__(self, frame: ChunkFrame, index: int, reader: AnswerReader) -> None:
        self._frame = frame
        self._before = frame.opened(index) + b'"delta":'
        self._before_text = self._before + b'{"content":'
        self._logprobs = reader.logprobs()
        self._gives_token_ids = reader.gives_token_ids
        self._reader = reader
        self._parser: AnswerParser | None = None
        self._plain = False
        self._called = False
        self.begun = False

    def begin(self, first: Delta) -> bytes:
        """Return the chunk that comes before those of deltas, of which ``first`` is the first."""
        self.begun = True
        self._parser = self._reader.parser(first.in_reasoning)
        self._plain = self._parser is None and self._logprobs is None and not self._gives_token_ids
        tail = self._frame.tail
        if self._gives_token_ids:
            ids = orjson.dumps(first.prompt_token_ids)
            tail = tail.replace(b"]", b'],"prompt_token_ids":' + ids, 1)
        return self._before + _ROLE + _GOES_ON + tail

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        tail = self._frame.tail
        chunks = b""
        for delta in deltas:
            if not self._plain:
                chunks += self._encode_parts(delta, tail)
            elif delta.text:
                chunks += self._before_text + orjson.dumps(delta.text) + b"}" + _GOES_ON + tail
            if delta.finish_reason is not None:
                reason = self._reader.finish_reason(delta.finish_reason, self._called).encode()
                chunks += self._before + b'{},"logprobs":null,"finish_reason":"%b"}' % reason + tail
        return chunks

    def _encode_parts(self, delta: Delta, tail: bytes) -> bytes:
        parts = self._parts(delta)
        values = [_delta(part) for part in parts]
        self._called = self._called or any(isinstance(part, CallStart) for part in parts)
        tokens = self._tokens(delta)
        if tokens and not values:
            values = [{"content": ""}]
        chunks = b""
        for value in values:
            chunks += self._before + orjson.dumps(value) + (tokens or _GOES_ON) + tail
            tokens = b""  # all with the first of the delta's chunks
        return chunks

    def _tokens(self, delta: Delta) -> bytes:
        """Return the part of a chunk about the delta's tokens, which is empty where it is not
        asked for."""
        said = b""
        if self._logprobs is not None and (entries := self._logprobs.push(delta)):
            said = b',"logprobs":' + orjson.dumps({"content": entries, "refusal": None})
        if self._gives_token_ids and delta.token_ids:
            said = (said or b',"logprobs":null') + b',"token_ids":' + orjson.dumps(delta.token_ids)
        return said and said + b',"finish_reason":null}'

    def _parts(self, delta: Delta) -> list[Part]:
        if self._parser is None:
            return [Content(delta.text)] if delta.text else []
        parts = self._parser.push(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            parts += self._parser.finish()
        return parts


def _delta(part: Part) -> dict[str, Any]:
    match part:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning": text, "reasoning_content": text}
        case CallStart(index, id_, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": id_, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


class ChatEvents(ChoiceEvents[ChatChoice]):
    """The events of a chat stream, of which each answer begins with a chunk of its own."""

    def encode(self, deltas: Sequence[Delta], generation: int = 0) -> bytes:
        choice, begin = self._choices[generation], b""
        if not choice.begun:
            self._usage.add(generation, deltas[0].prompt_tokens, 0)
            begin = choice.begin(deltas[0])
        return begin + super().encode(deltas, generation)
