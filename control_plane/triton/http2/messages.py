"""gRPC's messages in a stream of bytes: a flag (compressed), the length in 4 bytes, the message.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

from collections.abc import Sequence


def envelope(message: bytes) -> bytes:
    return b"\0%b%b" % (len(message).to_bytes(4, "big"), message)


class MessageReader:
    """A reader that cuts what arrives into messages."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def is_between_messages(self) -> bool:
        return not self._rest

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Return the messages that are complete now. Raises `ValueError` for a compressed one."""
        if not self._rest and len(data) >= 5 and _end(data, 0) == len(data):
            return (data[5:],)  # the rule: one frame, one message
        self._rest += data
        messages = []
        at = 0
        while len(self._rest) - at >= 5 and (end := _end(self._rest, at)) <= len(self._rest):
            messages.append(bytes(self._rest[at + 5 : end]))
            at = end
        del self._rest[:at]
        return messages


def _end(data: bytes | bytearray, at: int) -> int:
    if data[at]:
        raise ValueError("a compressed message, which was not asked for")
    return at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
