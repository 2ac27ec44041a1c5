"""``text_completion`` objects of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from control_plane.api.openai.logprobs import CompletionLogprobs, EndCutter
from control_plane.api.openai.streams import ChunkFrame
from control_plane.api.openai.usage import Usage
from control_plane.errors import TriadError
from control_plane.triton.codec import Delta, Entry

_GOES_ON = b',"logprobs":null,"finish_reason":null}'


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is given back before its continuation.

    ``first_token``: the text of its first token, which has no log probability.
    """

    text: str
    first_token: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a completion is to have beside its text. ``text``: False with ``max_tokens`` 0."""

    logprobs: bool = False
    text: bool = True


class CompletionShape:
    """Text and log probabilities of one choice, whole or in pieces."""

    def __init__(self, wanted: Wanted, echo: Echo | None) -> None:
        self._wanted = wanted
        self._echo = echo
        self._cutter = EndCutter()
        self._logprobs = CompletionLogprobs()

    def piece(
        self,
        text: str,
        entries: Sequence[Entry] | None,
        finish_reason: str | None,
        prompt_entries: Sequence[Entry | None] | None,
    ) -> tuple[str, dict[str, Any] | None]:
        """The text to show, and its ``logprobs``."""
        shown: list[Entry | None] = []
        if not self._wanted.text:
            text = ""
        elif self._wanted.logprobs:
            shown += self._cutter.push(entries or (), text, finish_reason)
        first = ""
        if self._echo is not None:
            text, first = self._echo.text + text, self._echo.first_token
            shown = [*(prompt_entries or ()), *shown]
            self._echo = None
        return text, self._logprobs.shape(shown, first) if self._wanted.logprobs else None


class CompletionChoice:
    def __init__(self, frame: ChunkFrame, index: int, wanted: Wanted, echo: Echo | None) -> None:
        self._frame = frame
        self._before = frame.choice(index, b"text")
        self._shape = CompletionShape(wanted, echo)
        self._wanted = wanted
        self._plain = wanted == Wanted() and echo is None

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        tail = self._frame.tail
        chunks = b""
        for delta in deltas:
            if not self._plain:
                chunks += self._encode_all(delta, tail)
            elif delta.text:
                chunks += self._before + orjson.dumps(delta.text) + _GOES_ON + tail
            if delta.finish_reason is not None:
                reason = delta.finish_reason.encode() if self._wanted.text else b"length"
                chunks += self._before + b'"","logprobs":null,"finish_reason":"%b"}' % reason + tail
        return chunks

    def _encode_all(self, delta: Delta, tail: bytes) -> bytes:
        text, logprobs = self._shape.piece(
            delta.text, delta.logprobs, delta.finish_reason, delta.prompt_logprobs
        )
        if not text and not (logprobs and logprobs["tokens"]):
            return b""
        return (
            self._before
            + orjson.dumps(text)
            + b',"logprobs":'
            + orjson.dumps(logprobs)
            + b',"finish_reason":null}'
            + tail
        )


class CompletionEvents:
    """Implements `control_plane.api.sse.Events`."""

    def __init__(
        self, frame: ChunkFrame, choices: Sequence[CompletionChoice], usage: Usage
    ) -> None:
        self._frame = frame
        self._choices = choices
        self._usage = usage

    def encode(self, deltas: Sequence[Delta], generation: int = 0) -> bytes:
        self._usage.add_deltas(generation, deltas)
        return self._choices[generation].encode(deltas)

    def end(self) -> bytes:
        return self._frame.end()

    def error(self, error: TriadError) -> bytes:
        return self._frame.error(error)
