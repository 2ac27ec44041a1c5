"""HTTP messages as bytes, where uvicorn does not make them as they are needed."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence

import httptools
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from control_plane.errors import HeadersTooLarge, TriadError

Header = tuple[bytes, bytes]

_OF_UPGRADES = (b"upgrade", b"http2-settings")


def too_large(most: int) -> HeadersTooLarge:
    """Return the error of a request line and headers of more than ``most`` bytes."""
    return HeadersTooLarge(
        f"the request line and the headers must not exceed {most} bytes together"
    )


def response(error: TriadError, headers: Sequence[Header]) -> bytes:
    """Return a whole response, after which the connection is closed."""
    request_id = f"req_{secrets.token_hex(8)}"
    body = orjson.dumps(error.body(request_id))
    lines = [
        *headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
        (b"connection", b"close"),
    ]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return STATUS_LINE[error.status] + head + b"\r\n" + body


def head_without_upgrade(
    parser: httptools.HttpRequestParser, url: bytes, headers: Sequence[Header]
) -> bytes:
    """Return the head of the request that has been parsed, without its wish for an upgrade."""
    version = parser.get_http_version().encode()
    lines = [b"%b %b HTTP/%b" % (parser.get_method(), url, version)]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            value = b",".join(option for option in options if option not in _OF_UPGRADES)
        if name not in _OF_UPGRADES:
            lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def without_chunks(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """HTTP/1.0 has none: a body whose length is not said ends with the connection."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        unframed = False

        async def send_unframed(message: Message) -> None:
            nonlocal unframed
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message.get("headers", ())}
                unframed = b"content-length" not in names
                if unframed:
                    cycle.chunked_encoding = False
            elif unframed:
                more = message.get("more_body", False)
                cycle.expected_content_length = (
                    sys.maxsize if more else len(message.get("body", b""))
                )
            await send(message)

        await app(scope, receive, send_unframed)

    return wrapped
