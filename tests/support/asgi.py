"""One HTTP request to an ASGI application, whose client may leave before the answer is there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
from starlette.types import ASGIApp, Message


class AsgiCall:
    """A POST of a JSON body. It runs as a task of its own; `leave` closes the client's side."""

    def __init__(self, app: ASGIApp, path: str, body: object, **headers: str) -> None:
        self.status: int | None = None
        self.body = b""
        self.whole = False
        self._changed = asyncio.Event()
        self._left = asyncio.Event()
        self._asked = False
        self._data = json.dumps(body).encode()
        names = {"content-type": "application/json"} | headers
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in names.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.task = asyncio.ensure_future(self._run(app, scope))

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._data, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")
            self.whole = not message.get("more_body", False)
        self._changed.set()

    async def until(self, text: bytes) -> None:
        """Wait until the body contains a text."""
        async with asyncio.timeout(30):
            while text not in self.body:
                self._changed.clear()
                await self._changed.wait()

    def leave(self) -> None:
        """Close the connection, as a client does that wants no more of the answer."""
        self._left.set()

    async def end(self) -> None:
        """Wait for the application to be done with the request."""
        await asyncio.wait_for(self.task, 30)

    def json(self) -> Any:  # noqa: ANN401
        return orjson.loads(self.body)
