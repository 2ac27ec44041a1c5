"""One call: a request message out, and messages in until the status."""

from __future__ import annotations

import asyncio
from typing import Protocol

from grpc import StatusCode

from control_plane.triton.http2.frames import CANCEL
from control_plane.triton.http2.messages import MessageReader, envelope
from control_plane.triton.http2.status import Status

STREAM_WINDOW = 1 << 20
"""Bytes that may arrive before those before them have been taken."""


class Receiver(Protocol):
    """The receiver of a call's responses."""

    @property
    def has_waiting(self) -> bool:
        """Something arrived that has not been taken; `Call.taken` is called when it is."""

    def received(self, message: bytes) -> None:
        """Raises `ValueError` for what is no message."""

    def ended(self, status: Status) -> None:
        """Called once, last."""


class Carrier(Protocol):
    """The connection, as a call sees it."""

    def allow(self, stream_id: int, size: int) -> None:
        """Let the server send so many more bytes."""

    def drop(self, call: Call, code: int) -> None:
        """Reset the stream with an HTTP/2 error code, and forget it."""


class Call:
    """A gRPC call. ``timeout`` is in seconds, from now on."""

    __slots__ = (
        "_carrier",
        "_deadline",
        "_reader",
        "_receiver",
        "_untaken",
        "done",
        "headers",
        "stream_id",
        "unsent",
        "window",
    )

    def __init__(self, headers: bytes, message: bytes, receiver: Receiver, timeout: float) -> None:
        self.headers = headers
        self.unsent = memoryview(envelope(message))
        self.window = 0  # bytes that the server allows
        self.stream_id = 0
        self.done = False
        self._receiver = receiver
        self._carrier: Carrier | None = None
        self._reader = MessageReader()
        self._untaken = 0
        self._deadline = asyncio.get_running_loop().call_later(timeout, self._expire)

    def begin(self, carrier: Carrier, stream_id: int, window: int) -> None:
        self._carrier, self.stream_id, self.window = carrier, stream_id, window

    def receive(self, data: bytes, size: int) -> None:
        """Take data. ``size``: what it counts in flow control, which is more where it was
        padded."""
        self._untaken += size
        try:
            for message in self._reader.feed(data):
                self._receiver.received(message)
        except ValueError as error:
            return self._abort(Status(StatusCode.INTERNAL, f"the answer cannot be read: {error}"))
        if self._untaken >= STREAM_WINDOW // 2 and not self._receiver.has_waiting:
            self.taken()  # a part of a message: its consumer cannot take that

    def taken(self) -> None:
        """Note that the consumer has all that has arrived: the server may send more."""
        if self._untaken >= STREAM_WINDOW // 2 and self._carrier is not None and not self.done:
            self._carrier.allow(self.stream_id, self._untaken)
            self._untaken = 0

    def complete(self, status: Status) -> None:
        """End the call: the server has ended it, or will not."""
        if self.done:
            return
        self.done = True
        self._deadline.cancel()
        if status.code is StatusCode.OK and not self._reader.is_between_messages:
            status = Status(StatusCode.INTERNAL, "the answer ends in the middle of a message")
        self._receiver.ended(status)

    def cancel(self) -> None:
        self._abort(Status(StatusCode.CANCELLED, "the call was cancelled"))

    def _expire(self) -> None:
        self._abort(Status(StatusCode.DEADLINE_EXCEEDED))

    def _abort(self, status: Status) -> None:
        if not self.done:
            if self._carrier is not None:
                self._carrier.drop(self, CANCEL)
            self.complete(status)
