"""Streams of ``/v1``: what is common to both routes' chunks.

As in `control_plane.api.sse`, no object is made per chunk but its bytes: everything that all chunks
of a choice have in common is put together once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import orjson

from control_plane.api.openai.fields import V1Request
from control_plane.api.openai.usage import Usage
from control_plane.errors import TriadError
from control_plane.inference.responses import Delta

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """The fields that every object of one response begins with."""

    id: str
    kind: str
    created: int  # seconds since the epoch
    model: str
    service_tier: str | None = None  # where the client has asked for one

    def values(self) -> dict[str, object]:
        values: dict[str, object] = {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
        }
        return values if self.service_tier is None else values | {"service_tier": self.service_tier}


class ChunkFrame:
    """The bytes around the ``choices`` of chunks."""

    def __init__(self, head: Head, body: V1Request, usage: Usage, request_id: str) -> None:
        opened = orjson.dumps(head.values())[:-1]
        self._head = b"data: " + opened + b',"choices":['
        self._usage = usage
        self.usage_in_chunks = body.usage_in_chunks
        self._at_end = body.usage_in_stream
        self._request_id = request_id
        self._plain_tail = b'],"usage":null}\n\n' if self._at_end else b"]}\n\n"

    def opened(self, index: int) -> bytes:
        """Return a chunk up to the fields of its choice that differ from chunk to chunk."""
        return self._head + b'{"index":%d,' % index

    @property
    def tail(self) -> bytes:
        """Return the end of a chunk, from the end of its choice on."""
        if not self.usage_in_chunks:
            return self._plain_tail
        return b'],"usage":' + orjson.dumps(self._usage.body()) + b"}\n\n"

    def end(self) -> bytes:
        if not self._at_end:
            return DONE
        usage = orjson.dumps(self._usage.body())
        return self._head + b'],"usage":' + usage + b"}\n\n" + DONE

    def error(self, error: TriadError) -> bytes:
        return b"data: " + orjson.dumps(error.body(self._request_id)) + b"\n\n" + DONE


class Choice(Protocol):
    """The chunks of one answer."""

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """Return the chunks of deltas."""


C = TypeVar("C", bound=Choice)


class ChoiceEvents(Generic[C]):
    """The events of a stream of one or more answers. Implements `control_plane.api.sse.Events`."""

    def __init__(self, frame: ChunkFrame, choices: Sequence[C], usage: Usage) -> None:
        self._frame = frame
        self._choices = choices
        self._usage = usage
        self._counts_in_chunks = frame.usage_in_chunks

    def encode(self, deltas: Sequence[Delta], generation: int = 0) -> bytes:
        choice = self._choices[generation]
        if not self._counts_in_chunks:
            self._usage.add_deltas(generation, deltas)
            return choice.encode(deltas)
        chunks = b""
        for delta in deltas:  # each says how many tokens there are with its own
            self._usage.add(generation, delta.prompt_tokens, delta.tokens)
            chunks += choice.encode((delta,))
        return chunks

    def end(self) -> bytes:
        return self._frame.end()

    def error(self, error: TriadError) -> bytes:
        return self._frame.error(error)
