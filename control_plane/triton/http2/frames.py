"""HTTP/2 frames: https://www.rfc-editor.org/rfc/rfc9113#section-4 and following."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import TypeAlias

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(
    1, 6
)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 6, 7, 8, 9
ENHANCE_YOUR_CALM, INADEQUATE_SECURITY = 11, 12

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
HIGHEST = 2**31 - 1
"""Of stream ids and of windows."""

_HEAD = struct.Struct(">BHBBI")
_SETTING = struct.Struct(">HI")

Frame: TypeAlias = tuple[int, int, int, bytes]
"""Type, flags, stream id, payload."""


class ProtocolError(Exception):
    """The error of a peer that does not keep to HTTP/2: the connection ends with this error
    code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(type_: int, flags: int, stream_id: int, payload: bytes | memoryview = b"") -> bytes:
    size = len(payload)
    head = _HEAD.pack(size >> 16, size & 0xFFFF, type_, flags, stream_id)
    return b"".join((head, payload))


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def reset(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def go_away(code: int) -> bytes:
    """Return the GOAWAY frame of a client, whose peer has begun no streams."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", 0, code))


def header_frames(stream_id: int, block: bytes, max_size: int) -> bytes:
    """Return the frames of a header block after which the stream goes on."""
    parts = [block[at : at + max_size] for at in range(0, len(block), max_size)]
    types = [HEADERS] + [CONTINUATION] * (len(parts) - 1)
    flags = [0] * (len(parts) - 1) + [END_HEADERS]
    return b"".join(
        frame(type_, flag, stream_id, part)
        for type_, flag, part in zip(types, flags, parts, strict=True)
    )


class FrameReader:
    """A reader that cuts what arrives into frames. Raises `ProtocolError`."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, type_, flags, stream_id = _HEAD.unpack_from(data, at)
            size = high << 16 | low
            if size > DEFAULT_FRAME_SIZE:  # we have not allowed more
                raise ProtocolError(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            if end - at < 9 + size:
                break
            at += 9 + size
            yield type_, flags, stream_id & HIGHEST, data[at - size : at]
        self._rest = data[at:]


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return the content of a DATA or HEADERS frame. Raises `ProtocolError`."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def number(payload: bytes) -> int:
    """Return the number in the payload of RST_STREAM or WINDOW_UPDATE. Raises `ProtocolError`."""
    if len(payload) != 4:
        raise ProtocolError(FRAME_SIZE_ERROR, "a frame of the wrong size")
    return int.from_bytes(payload, "big")


def parse_settings(payload: bytes) -> dict[int, int]:
    """Raises `ProtocolError`."""
    if len(payload) % _SETTING.size:
        raise ProtocolError(FRAME_SIZE_ERROR, "settings of the wrong size")
    values = dict(_SETTING.iter_unpack(payload))
    if values.get(INITIAL_WINDOW_SIZE, 0) > HIGHEST:
        raise ProtocolError(FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
    if not DEFAULT_FRAME_SIZE <= values.get(MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE) < 2**24:
        raise ProtocolError(PROTOCOL_ERROR, "a maximum frame size out of its range")
    return values


def parse_go_away(payload: bytes) -> tuple[int, int, bytes]:
    """Return the last stream that was or will be processed, an error code, and words for people."""
    if len(payload) < 8:
        raise ProtocolError(FRAME_SIZE_ERROR, "GOAWAY of the wrong size")
    last, code = struct.unpack_from(">II", payload)
    return last & HIGHEST, code, payload[8:]
