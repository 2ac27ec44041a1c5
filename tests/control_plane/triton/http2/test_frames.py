"""What arrives is cut into frames and messages wherever reads happen to end."""

from __future__ import annotations

import random

import pytest

from control_plane.triton.http2 import frames
from control_plane.triton.http2.headers import decode, encode
from control_plane.triton.http2.messages import MessageReader, envelope

FRAMES = [
    frames.frame(frames.DATA, frames.END_STREAM, 1, b"x" * 16_384),
    frames.frame(frames.PING, 0, 0, b"12345678"),
    frames.frame(frames.DATA, 0, 2**31 - 1),
    frames.settings({frames.HEADER_TABLE_SIZE: 0, frames.MAX_FRAME_SIZE: 20_000}),
]


def test_frames_in_one_read() -> None:
    read = list(frames.FrameReader().feed(b"".join(FRAMES)))
    assert [(type_, stream_id, len(payload)) for type_, _, stream_id, payload in read] == [
        (frames.DATA, 1, 16_384),
        (frames.PING, 0, 8),
        (frames.DATA, 2**31 - 1, 0),
        (frames.SETTINGS, 0, 12),
    ]
    assert b"".join(frames.frame(*one) for one in read) == b"".join(FRAMES)


@pytest.mark.parametrize("seed", range(20))
def test_frames_and_messages_in_pieces(seed: int) -> None:
    chance = random.Random(seed)
    messages = [chance.randbytes(chance.choice([0, 1, 200, 70_000])) for _ in range(20)]
    data = b"".join(map(envelope, messages))
    sent = b"".join(
        frames.frame(frames.DATA, 0, 1, data[at : at + 1000]) for at in range(0, len(data), 1000)
    )
    reader, message_reader = frames.FrameReader(), MessageReader()
    received: list[bytes] = []
    at = 0
    while at < len(sent):
        size = chance.choice([1, 5, 9, 1000, 20_000])
        for _, _, _, payload in reader.feed(sent[at : at + size]):
            received += message_reader.feed(payload)
        at += size
    assert received == messages
    assert message_reader.is_between_messages


def test_headers_are_read_without_those_before_them() -> None:
    headers = [("grpc-status", "0"), ("long", "x" * 300), (":path", "/a")]
    block = encode(headers)
    assert decode(block) == decode(encode(headers)) == {k.encode(): v.encode() for k, v in headers}


@pytest.mark.parametrize("block", [b"\xff\xff\xff", b"\xbe", b"\x00\x05ab", b"\x3f\xe1\x1f"])
def test_a_block_that_is_none_or_wants_a_table(block: bytes) -> None:
    with pytest.raises(frames.ProtocolError) as raised:
        decode(block)
    assert raised.value.code == frames.COMPRESSION_ERROR


def test_a_long_header_block_goes_on_in_further_frames() -> None:
    sent = frames.header_frames(3, b"x" * 50, 20)
    read = list(frames.FrameReader().feed(sent))
    assert [(type_, flags) for type_, flags, _, _ in read] == [
        (frames.HEADERS, 0),
        (frames.CONTINUATION, 0),
        (frames.CONTINUATION, frames.END_HEADERS),
    ]
    assert b"".join(payload for *_, payload in read) == b"x" * 50
