"""``chat.completion.chunk`` objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from control_plane.api.openai import logprobs
from control_plane.api.openai.answer_reader import AnswerReader
from control_plane.api.openai.parts import (
    AnswerParser,
    CallArguments,
    CallStart,
    Content,
    Part,
    Reasoning,
)
from control_plane.api.openai.streams import ChunkFrame
from control_plane.api.openai.usage import Usage
from control_plane.errors import TriadError
from control_plane.triton.codec import Delta

_ROLE = b'{"role":"assistant","content":""}'
_GOES_ON = b',"logprobs":null,"finish_reason":null}'


class ChatChoice:
    """One answer's chunks."""

    def __init__(self, frame: ChunkFrame, index: int, reader: AnswerReader) -> None:
        self._frame = frame
        self._before = frame.choice(index, b"delta")
        self._before_text = self._before + b'{"content":'
        self._top = reader.top_logprobs
        self._cutter = logprobs.EndCutter()
        self._reader = reader
        self._parser: AnswerParser | None = None
        self._called = False
        self._began = False

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        tail = self._frame.tail
        chunks = b""
        if not self._began:
            self._began = True
            chunks = self._before + _ROLE + _GOES_ON + tail
            self._parser = self._reader.parser(deltas[0].in_reasoning)
        for delta in deltas:
            if self._parser is not None or self._top is not None:
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
        tokens = self._logprobs(delta)
        if tokens and not values:
            values = [{"content": ""}]
        chunks = b""
        for value in values:
            chunks += self._before + orjson.dumps(value)
            if tokens:
                content = orjson.dumps({"content": tokens, "refusal": None})
                chunks += b',"logprobs":%b,"finish_reason":null}' % content + tail
                tokens = []  # all with the first of the delta's chunks
            else:
                chunks += _GOES_ON + tail
        return chunks

    def _parts(self, delta: Delta) -> list[Part]:
        if self._parser is None:
            return [Content(delta.text)] if delta.text else []
        parts = self._parser.push(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            parts += self._parser.finish()
        return parts

    def _logprobs(self, delta: Delta) -> list[dict[str, Any]]:
        if self._top is None:
            return []
        kept = self._cutter.push(delta.logprobs or (), delta.text, delta.finish_reason)
        return logprobs.chat(kept, self._top)


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


class ChatEvents:
    """Implements `control_plane.api.sse.Events`."""

    def __init__(self, frame: ChunkFrame, choices: Sequence[ChatChoice], usage: Usage) -> None:
        self._choices = choices
        self._usage = usage
        self._frame = frame

    def encode(self, deltas: Sequence[Delta], generation: int = 0) -> bytes:
        self._usage.add_deltas(generation, deltas)
        return self._choices[generation].encode(deltas)

    def end(self) -> bytes:
        return self._frame.end()

    def error(self, error: TriadError) -> bytes:
        return self._frame.error(error)
