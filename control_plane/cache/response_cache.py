"""A model's answers, kept, and given again for an equal request.

They are kept in one part when they have come to their end. An answer that was streamed serves
requests for whole ones as well, and the other way round.
Equal requests that run at the same time share one generation, a `Flight`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, is_dataclass

from prometheus_client import CollectorRegistry, Counter

from control_plane.cache.flight import Flight, FlightReader
from control_plane.cache.packing import pack, unpack
from control_plane.cache.store import Store, StoreError, open_store
from control_plane.errors import TriadError
from control_plane.inference.client import ResponseStream
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.observability.metrics import Metrics
from control_plane.rare_log import RareLog
from control_plane.settings import CachingSettings

logger = logging.getLogger(__name__)

_VERSION = b"4"
"""The version of values and of keys: those of another version are never found."""


class ResponseCache:
    """The cache of whole answers. A store that does not work costs nothing but its answers: they
    are computed then."""

    def __init__(
        self, store: Store, metrics: Metrics, *, sampled: bool = False, shared: bool = False
    ) -> None:
        """Create a cache over a store. ``sampled``: answers that were drawn at random are kept
        as well. ``shared``: one caller gets another's answers."""
        self.keeps_sampled = sampled
        self._shared = shared
        self._store = store
        self._counter = metrics.more(_requests)
        self._putting: set[asyncio.Task[None]] = set()
        self._flights: dict[tuple[bytes, bool], Flight] = {}  # by key, and by whether they stream
        self._flying: set[Flight] = set()
        self._log = RareLog(logger)

    def key(self, request: Generate, model_facts: str, caller: str, number: int = 0) -> bytes:
        """Return a digest of all that an answer depends on: of the request's fields but for its id
        and for whether it is a stream, among them the client's `cache_salt`; of ``model_facts``,
        which may change under one name; of the caller; and of the answer's ``number``, where each
        of several is to be another."""
        prompt = request.prompt
        parts = (
            _VERSION,
            model_facts.encode(),
            b"" if self._shared else caller.encode(),
            number.to_bytes(8, "little"),
            request.model.encode(),
            type(prompt).__name__.encode(),
            _json(asdict(prompt) if is_dataclass(prompt) else prompt),
            _json(request.sampling),
            _json(request.returns),
        )
        return hashlib.sha256(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).digest()

    def stream(
        self,
        key: bytes,
        begin: Callable[[], ResponseStream[Delta]],
        *,
        streamed: bool = False,
        reads: bool = True,
    ) -> ResponseStream[Delta]:
        """Return the responses that ``key`` has, or that a running generation with this key makes,
        or else those of the stream that ``begin`` begins. ``streamed``: that stream's responses
        come as tokens are generated. ``reads``: others' responses may be returned."""
        return _CachedStream(self, key, begin, streamed=streamed, reads=reads)

    async def get(self, key: bytes) -> list[Delta] | None:
        """Return a kept answer, or None. Raises `StoreError`, also for a value that is none."""
        try:
            value = await self._store.get(key)
            return None if value is None else unpack(value)
        except (StoreError, ValueError) as error:
            self._complain(error)
            raise StoreError(str(error)) from None

    def count(self, result: str) -> None:
        """Count a request by its result."""
        self._counter.labels(result).inc()

    def flight(self, key: bytes, *, streamed: bool) -> Flight | None:
        """Return the generation that a request may join. One that streams joins only a stream: it
        would get nothing of another before its end."""
        kinds = (True,) if streamed else (False, True)
        flights = (self._flights.get((key, kind)) for kind in kinds)
        return next((flight for flight in flights if flight and not flight.cancelled), None)

    def begin_flight(self, key: bytes, stream: ResponseStream[Delta], *, streamed: bool) -> Flight:
        """Return a generation that further requests may join until its answer is kept."""

        def leave_table(_: object = None) -> None:
            if self._flights.get((key, streamed)) is flight:
                del self._flights[key, streamed]

        def on_end(flight: Flight) -> None:
            self._flying.discard(flight)
            putting = self.put(key, flight.responses) if flight.is_whole else None
            if putting is None:
                leave_table()
            else:
                putting.add_done_callback(leave_table)

        flight = Flight(stream, streamed=streamed, on_end=on_end)
        self._flights[key, streamed] = flight
        self._flying.add(flight)
        return flight

    def put(self, key: bytes, responses: Sequence[Delta]) -> asyncio.Task[None] | None:
        """Keep an answer, without waiting for the store; return what does so. None: it is too
        large."""
        if (value := pack(responses)) is None:
            return None
        task = asyncio.ensure_future(self._put(key, value))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)
        return task

    async def _put(self, key: bytes, value: bytes) -> None:
        try:
            await self._store.put(key, value)
        except StoreError as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        text = "the cache does not work now, answers are computed: %s"
        self._log.write(logging.WARNING, text, error)

    async def close(self) -> None:
        for flight in list(self._flying):
            await flight.end()
        if self._putting:
            await asyncio.wait(self._putting)
        await self._store.close()


@asynccontextmanager
async def open_cache(
    settings: CachingSettings, metrics: Metrics
) -> AsyncIterator[ResponseCache | None]:
    """Open the cache of the settings; None where nothing is to be kept. Raises `StoreError`."""
    if not settings.enabled:
        yield None
        return
    cache = ResponseCache(
        open_store(settings), metrics, sampled=settings.sampled, shared=settings.shared
    )
    try:
        yield cache
    finally:
        await cache.close()


class _CachedStream:
    """A stream that comes from the cache, or from a generation whose answer goes into it.
    Implements `ResponseStream[Delta]`."""

    def __init__(
        self,
        cache: ResponseCache,
        key: bytes,
        begin: Callable[[], ResponseStream[Delta]],
        *,
        streamed: bool,
        reads: bool,
    ) -> None:
        self._cache = cache
        self._key = key
        self._begin = begin
        self._streamed = streamed
        self._reads = reads
        self._reader: FlightReader | None = None
        self._followed: Flight | None = None  # until it has got something
        self._retried = False
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Sequence[Delta]]:
        return self

    async def __anext__(self) -> Sequence[Delta]:
        while not self._ended:
            if self._reader is None and (kept := await self._open()) is not None:
                self._ended = True
                return kept
            if self._reader is None:
                break  # its client left meanwhile
            try:
                responses = await self._reader.__anext__()
            except TriadError as error:
                if not self._is_another_s(error):
                    raise
                self._leave_failed()
            else:
                self._followed = None
                return responses
        raise StopAsyncIteration

    async def _open(self) -> Sequence[Delta] | None:
        """Return the kept answer, or join or begin a generation."""
        cache, result = self._cache, "miss"
        flight = self._joinable()
        if flight is None and self._reads:
            try:
                if (kept := await cache.get(self._key)) is not None:
                    cache.count("hit")
                    return kept
            except StoreError:
                result = "error"
            if self._ended:
                return None
            flight = self._joinable()  # begun while the store was asked
        self._followed = flight
        if flight is None:
            flight = cache.begin_flight(self._key, self._begin(), streamed=self._streamed)
        else:
            result = "shared"
        if self._reads and not self._retried:
            cache.count(result)
        self._reader = flight.join()
        return None

    def _joinable(self) -> Flight | None:
        return self._cache.flight(self._key, streamed=self._streamed) if self._reads else None

    def _is_another_s(self, error: TriadError) -> bool:
        """Return whether an error need not be this request's: it follows another and has got
        nothing, and the error is the server's, or the other one is a stream. It then asks for
        itself, once."""
        flight = self._followed
        if flight is None or self._retried:
            return False
        return error.status >= 500 or flight.streamed != self._streamed

    def _leave_failed(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        self._reader, self._retried = None, True

    def cancel(self) -> None:
        self._ended = True
        if self._reader is not None:
            self._reader.cancel()

    async def rest(self) -> Sequence[Delta]:
        return () if self._reader is None else await self._reader.rest()


def _requests(registry: CollectorRegistry) -> Counter:
    return Counter(
        "triad_cache_requests",
        "Requests that could be answered from the cache, by result: hit, shared, miss, error",
        ["result"],
        registry=registry,
    )


def _json(value: object) -> bytes:
    # Not orjson: integers, of a schema for one, may be of any size.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
