"""A gRPC server over HTTP/2 that does to its calls what a test says, faults too.

It is another implementation of the protocol, the package h2, which refuses what it should not be
sent: an error of its own ends the connection and is raised at the end of the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import h2.config
import h2.connection
import h2.events
import h2.settings
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

Settings: TypeAlias = Mapping[h2.settings.SettingCodes, int]


class ServedCall:
    """One call, as its server sees it."""

    def __init__(
        self, connection: ServedConnection, stream_id: int, headers: dict[str, str]
    ) -> None:
        self.connection = connection
        self.id = stream_id
        self.headers = headers
        self.body = bytearray()
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reset_by_client: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def message(self) -> bytes:
        """Of the request, when all of it is there."""
        assert self.body[0] == 0
        assert int.from_bytes(self.body[1:5], "big") == len(self.body) - 5
        return bytes(self.body[5:])

    def begin(self) -> None:
        headers = [(":status", "200"), ("content-type", "application/grpc")]
        self.connection.h2.send_headers(self.id, headers)
        self.connection.flush()

    async def data(self, data: bytes, frame: int = 16_384, padding: int | None = None) -> None:
        """In frames of a size, as the client's windows allow. Nothing after the client's reset."""
        h2 = self.connection.h2
        while data and not self.reset_by_client.done():
            room = min(h2.local_flow_control_window(self.id) - (padding or 0) - 1, frame)
            if room <= 0:
                await self.connection.until_changed()
                continue
            h2.send_data(self.id, data[:room], pad_length=padding)
            self.connection.flush()
            data = data[room:]

    async def say(self, *texts: str) -> None:
        await self.data(b"".join(map(response, texts)))

    def end(self, status: int = 0, message: str = "", *, with_headers: bool = False) -> None:
        """``with_headers``: they are the only ones."""
        trailers = [("grpc-status", str(status)), ("grpc-message", message)]
        first = [(":status", "200"), ("content-type", "application/grpc")] if with_headers else []
        self.connection.h2.send_headers(self.id, first + trailers, end_stream=True)
        self.connection.flush()

    def reset(self, code: int) -> None:
        self.connection.h2.reset_stream(self.id, code)
        self.connection.flush()


Behaviour: TypeAlias = Callable[[ServedCall], Awaitable[None]]


class ServedConnection:
    def __init__(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.peer = peer
        self._reader, self._writer = reader, writer
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.calls: dict[int, ServedCall] = {}
        self.pings_answered = 0
        self.gone_away: int | None = None  # the client's error code
        self._changed = asyncio.Event()
        self.served: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        self.h2.local_settings = h2.settings.Settings(
            client=False, initial_values=dict(self.peer.settings)
        )
        self.h2.initiate_connection()
        self.flush()
        tasks = set()
        try:
            while data := await self._reader.read(65_536):
                for event in self.h2.receive_data(data):
                    if (call := self._see(event)) is not None:
                        tasks.add(asyncio.ensure_future(self.peer.behave(call)))
                self.flush()
                self._changed.set()
        except ConnectionError:
            pass
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    self.peer.problems.append(result)

    def _see(self, event: h2.events.Event) -> ServedCall | None:
        """A call that has begun."""
        if isinstance(event, h2.events.RequestReceived):
            headers = {str(name): str(value) for name, value in event.headers}
            call = self.calls[event.stream_id] = ServedCall(self, event.stream_id, headers)
            self.peer.calls.append(call)
            return call
        if isinstance(event, h2.events.DataReceived):
            self.calls[event.stream_id].body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.calls[event.stream_id].whole.set_result(None)
        elif isinstance(event, h2.events.StreamReset):
            self.calls[event.stream_id].reset_by_client.set_result(int(event.error_code))
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings_answered += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.gone_away = int(event.error_code or 0)
        return None

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    def raw(self, data: bytes) -> None:
        """Bytes past h2, which would not send them."""
        self._writer.write(data)

    def go_away(self, last: int) -> None:
        """Past h2, which would not let a stream go on after it."""
        payload = last.to_bytes(4, "big") + bytes(4) + b"for a test"
        self.raw(len(payload).to_bytes(3, "big") + b"\7\0\0\0\0\0" + payload)

    async def until_changed(self) -> None:
        """Something came from the client."""
        self._changed.clear()
        await self._changed.wait()

    def close(self) -> None:
        self._writer.close()


class Peer:
    def __init__(self, behave: Behaviour, settings: Settings) -> None:
        self.behave = behave
        self.settings = settings
        self.calls: list[ServedCall] = []
        self.connections: list[ServedConnection] = []
        self.problems: list[BaseException] = []
        self.port = 0
        self.endpoint = ""

    async def until_called(self, times: int = 1) -> None:
        for _ in range(500):
            if len(self.calls) >= times:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("not within 5 s")

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = ServedConnection(self, reader, writer)
        self.connections.append(connection)
        try:
            await connection.serve()
        except Exception as problem:
            self.problems.append(problem)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            connection.served.set_result(None)


@asynccontextmanager
async def h2_peer(
    behave: Behaviour,
    settings: Settings | None = None,
    port: int = 0,
    *,
    socket: Path | None = None,
    strict: bool = True,
) -> AsyncIterator[Peer]:
    """A server whose every call is given to ``behave``. ``socket``: where it listens, in place of a
    port; ``strict``: h2's errors are raised."""
    peer = Peer(behave, settings or {})
    if socket is not None:
        server: asyncio.Server = await asyncio.start_unix_server(peer.accept, socket)
        peer.endpoint = f"unix:{socket}"
    else:
        server = await asyncio.start_server(peer.accept, "127.0.0.1", port)
        peer.port = server.sockets[0].getsockname()[1]
        peer.endpoint = f"127.0.0.1:{peer.port}"
    try:
        yield peer
    finally:
        server.close()
        for connection in peer.connections:
            connection.close()
        await asyncio.gather(*(connection.served for connection in peer.connections))
    for problem in peer.problems if strict else ():
        raise problem


async def answer(call: ServedCall) -> None:
    """A behaviour: says a and b."""
    await call.whole
    call.begin()
    await call.say("a", "b")
    call.end()


async def hang(call: ServedCall) -> None:
    """A behaviour: says nothing."""
    call.begin()
    await asyncio.sleep(60)


def response(text: str) -> bytes:
    """An answer in its envelope, whose id is the text."""
    message = ModelStreamInferResponse()
    message.infer_response.id = text
    encoded: bytes = message.SerializeToString()
    return b"\0" + len(encoded).to_bytes(4, "big") + encoded
