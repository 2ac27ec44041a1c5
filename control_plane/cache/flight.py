"""One generation for equal requests that run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from control_plane.inference.client import ResponseStream
from control_plane.inference.responses import Delta


class Flight:
    """A generation that several readers share.

    It is read as fast as its fastest reader wants, and kept until the last one has gone, so that
    each reads at its own pace: one answer in memory, however many readers there are. It goes on as
    long as it has readers, whoever began it.
    """

    def __init__(
        self, stream: ResponseStream[Delta], *, streamed: bool, on_end: Callable[[Flight], None]
    ) -> None:
        """Begin to read ``stream``. ``streamed``: it was asked for as a stream. ``on_end``: called
        once, when it has ended in any way."""
        self.streamed = streamed
        self.responses: list[Delta] = []
        self.ended = self.cancelled = False
        self.error: Exception | None = None
        self._stream = stream
        self._on_end = on_end
        self._readers: set[FlightReader] = set()
        self._wanted = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    @property
    def is_whole(self) -> bool:
        """Return whether the answer has come to its end."""
        complete = self.responses and self.responses[-1].finish_reason is not None
        return bool(complete) and self.ended and not self.cancelled and self.error is None

    def join(self) -> FlightReader:
        """Return a reader of all responses from the first one on."""
        reader = FlightReader(self)
        self._readers.add(reader)
        return reader

    async def _read(self) -> None:
        try:
            async for responses in self._stream:
                self.responses += responses
                self._wake()
                self._wanted.clear()
                await self._wanted.wait()
        except Exception as error:  # for the readers, whatever it is
            self.error = error
        finally:
            self.ended = True
            self._on_end(self)
            self._wake()

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    def want(self) -> None:
        """Read on: a reader has all that there is."""
        self._wanted.set()

    def leave(self, reader: FlightReader) -> None:
        """Go on without a reader, or end with the last one."""
        self._readers.discard(reader)
        if not self._readers and not self.ended:
            self.cancelled = True
            self._stream.cancel()
            self.want()

    async def rest(self) -> Sequence[Delta]:
        """Return, once it was cancelled, the responses that the flight has not read."""
        await asyncio.wait({self._reading})
        return await self._stream.rest()

    async def end(self) -> None:
        """Stop to read, and wait for that."""
        self._reading.cancel()
        await asyncio.wait({self._reading})


class FlightReader:
    """One reader of a `Flight`. Implements `ResponseStream[Delta]`."""

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._read = 0  # responses
        self._left = False
        self._ended_it = False
        self._unread: Sequence[Delta] = ()
        self._more = asyncio.Event()

    def __aiter__(self) -> FlightReader:
        return self

    async def __anext__(self) -> Sequence[Delta]:
        flight = self._flight
        while not self._left:
            if responses := flight.responses[self._read :]:
                self._read += len(responses)
                return responses
            if flight.error is not None:
                raise flight.error
            if flight.ended:
                break
            flight.want()
            self._more.clear()
            await self._more.wait()
        raise StopAsyncIteration

    def wake(self) -> None:
        """Look for responses again."""
        self._more.set()

    def cancel(self) -> None:
        if self._left:
            return
        self._left = True
        self._unread = self._flight.responses[self._read :]
        self._flight.leave(self)
        self._ended_it = self._flight.cancelled
        self.wake()

    async def rest(self) -> Sequence[Delta]:
        """Return what had come when it left, and with the last reader what still came."""
        if not self._ended_it:
            return self._unread
        rest = await self._flight.rest()
        return [*self._flight.responses[self._read :], *rest]
