"""An OAuth 2 server that introspects tokens (RFC 7662), and can be told to misbehave."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from tests.support.http_thread import running

AUTHORIZATION = "Basic dHJpYWQ6c2VjcmV0"


class TokenServer(ThreadingHTTPServer):
    """``tokens``: what it says of each. ``asked``: the tokens in the order in which they came."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens: dict[str, Any] = {}
        self.asked: list[str] = []
        self.authorizations: set[str | None] = set()
        self.status = 200
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/introspect"

    def answer(self, token: str) -> Any:  # noqa: ANN401
        self.asked.append(token)
        time.sleep(self.delay)
        return self.tokens.get(token, {"active": False})


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer

    def do_POST(self) -> None:
        self.server.authorizations.add(self.headers["Authorization"])
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        answer = self.server.answer(form["token"][0])
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def token_server(tokens: Mapping[str, Any]) -> Iterator[TokenServer]:
    server = TokenServer()
    server.tokens |= tokens
    with running(server):
        yield server
