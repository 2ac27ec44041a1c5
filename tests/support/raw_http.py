"""HTTP as bytes on a socket: what clients that are broken, slow or hostile send."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    status: int  # 0: the connection was closed without any
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(120)
    connection.connect(("127.0.0.1", port))
    return connection


def post(path: str, body: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [
        b"POST %b HTTP/%b" % (path.encode(), version),
        b"Host: test",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def exchange(port: int, *pieces: bytes, every: float = 0.0) -> Answer:
    """Sends the pieces, ``every`` so many seconds one, and reads until the server closes."""
    began = time.monotonic()
    with connect(port) as connection:
        with suppress(ConnectionError):  # the server may answer before it has read all
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(every)
        received = read_all(connection)
    return parse(received, time.monotonic() - began)


async def talk(port: int, *pieces: bytes) -> Answer:
    """Return what `exchange` does, for a server in the event loop that this runs in."""
    return parse(await receive(port, *pieces))


async def receive(port: int, *pieces: bytes) -> bytes:
    """Send the pieces, and return what comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()
    with suppress(ConnectionError):  # the server may answer before it has read all
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            received += data
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return bytes(received)


def split(received: bytes) -> list[Answer]:
    """Return the answers to several requests on one connection."""
    _, *answers = received.split(b"HTTP/1.1 ")
    return [parse(b"HTTP/1.1 " + answer) for answer in answers]


def read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            received += data
    return bytes(received)


def parse(received: bytes, seconds: float = 0.0) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    status = int(first.split()[1]) if first else 0
    return Answer(status, {name.lower(): value for name, value in pairs}, body, seconds)
