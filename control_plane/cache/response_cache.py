"""A model's responses, kept as they came, and given again for an equal request.

They are kept when the answer has come to its end. An answer that was streamed serves requests for
whole ones as well, and the other way round: the responses say the same, in more parts or fewer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, is_dataclass

from prometheus_client import Counter
from pydantic import ConfigDict, TypeAdapter, ValidationError

from control_plane.cache.store import MAX_VALUE_BYTES, Store, StoreError, open_store
from control_plane.inference.client import ResponseStream
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.observability.metrics import Metrics
from control_plane.rare_log import RareLog
from control_plane.settings import CachingSettings

logger = logging.getLogger(__name__)

_VERSION = b"3"
"""The version of values and of keys: those of another version are never found."""
MAX_UNPACKED_BYTES = MAX_VALUE_BYTES
"""Of one answer's responses. A larger answer is not kept; a value that unpacks to more is none."""
_FINISH_REASONS = ("stop", "length")
_TOKEN_KEYS = {"logprob", "rank", "decoded_token"}


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
        self._counter = Counter(
            "triad_cache_requests",
            "Requests that could be answered from the cache, by result: hit, miss, error",
            ["result"],
            registry=metrics.registry,
        )
        self._putting: set[asyncio.Task[None]] = set()
        self._log = RareLog(logger)

    def key(self, request: Generate, model_facts: str, caller: str) -> bytes:
        """Return a digest of all that an answer depends on: of the request's fields but for its id
        and for whether it is a stream, among them the client's `cache_salt`; of ``model_facts``,
        which may change under one name; and of the caller."""
        prompt = request.prompt
        parts = (
            _VERSION,
            model_facts.encode(),
            b"" if self._shared else caller.encode(),
            request.model.encode(),
            type(prompt).__name__.encode(),
            _json(asdict(prompt) if is_dataclass(prompt) else prompt),
            _json(request.sampling),
            _json(request.returns),
        )
        return hashlib.sha256(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).digest()

    def stream(
        self, key: bytes, begin: Callable[[], ResponseStream[Delta]], *, reads: bool = True
    ) -> ResponseStream[Delta]:
        """Return the responses that ``key`` has, or else those of the stream that ``begin``
        begins."""
        return _CachedStream(self, key, begin, reads=reads)

    async def get(self, key: bytes) -> list[Delta] | None:
        try:
            value = await self._store.get(key)
            found = None if value is None else _unpacked(value)
        except (StoreError, ValueError) as error:
            self._complain(error)
            self._counter.labels("error").inc()
            return None
        self._counter.labels("miss" if found is None else "hit").inc()
        return found

    def put(self, key: bytes, responses: Sequence[Delta]) -> None:
        """Keep an answer, without waiting for the store."""
        if (value := _packed(responses)) is None:
            return
        task = asyncio.ensure_future(self._put(key, value))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)

    async def _put(self, key: bytes, value: bytes) -> None:
        try:
            await self._store.put(key, value)
        except StoreError as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        text = "the cache does not work now, answers are computed: %s"
        self._log.write(logging.WARNING, text, error)

    async def close(self) -> None:
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
    """A stream that comes from the cache, or goes into it. Implements `ResponseStream[Delta]`."""

    def __init__(
        self,
        cache: ResponseCache,
        key: bytes,
        begin: Callable[[], ResponseStream[Delta]],
        *,
        reads: bool,
    ) -> None:
        self._cache = cache
        self._key = key
        self._begin = begin
        self._reads = reads
        self._stream: ResponseStream[Delta] | None = None
        self._responses: list[Delta] = []
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Sequence[Delta]]:
        return self

    async def __anext__(self) -> Sequence[Delta]:
        if self._ended:
            raise StopAsyncIteration
        if self._stream is None:
            if self._reads and (kept := await self._cache.get(self._key)) is not None:
                self._ended = True
                return kept
            if self._ended:  # its client left meanwhile
                raise StopAsyncIteration
            self._stream = self._begin()
        try:
            responses = await self._stream.__anext__()
        except StopAsyncIteration:
            self._keep()
            raise
        self._responses += responses
        return responses

    def _keep(self) -> None:
        complete = self._responses and self._responses[-1].finish_reason is not None
        if complete and not self._ended:
            self._cache.put(self._key, self._responses)
        self._ended = True

    def cancel(self) -> None:
        self._ended = True
        if self._stream is not None:
            self._stream.cancel()

    async def rest(self) -> Sequence[Delta]:
        return () if self._stream is None else await self._stream.rest()


def _json(value: object) -> bytes:
    # Not orjson: integers, of a schema for one, may be of any size.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


_DELTAS = TypeAdapter(list[Delta], config=ConfigDict(extra="forbid", strict=True))


def _packed(deltas: Sequence[Delta]) -> bytes | None:
    """Return a whole answer as bytes, or None if it is too large to be kept."""
    data = _DELTAS.dump_json(list(deltas), exclude_defaults=True)
    return zlib.compress(data, 1) if len(data) <= MAX_UNPACKED_BYTES else None


def _unpacked(value: bytes) -> list[Delta]:
    """Return the deltas of a whole answer. Raises `ValueError` for a value that is none: others
    may write into the store, and another version of this program may have done so."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(value, MAX_UNPACKED_BYTES)
        if not unpacker.eof:
            raise ValueError("a kept answer is cut off or too large")
        deltas = _DELTAS.validate_json(data)
    except (zlib.error, ValidationError) as error:
        raise ValueError(f"a kept answer cannot be read: {error}") from None
    _check_whole(deltas)
    return deltas


def _check_whole(deltas: Sequence[Delta]) -> None:
    """Raises `ValueError` unless the last response, and no other, ends the answer."""
    reasons = [d.finish_reason for d in deltas]
    if not reasons or reasons[-1] not in _FINISH_REASONS or any(reasons[:-1]):
        raise ValueError("a kept answer is not whole")
    for d in deltas:
        if not all(map(_is_entry, [*(d.logprobs or ()), *filter(None, d.prompt_logprobs or ())])):
            raise ValueError("a kept answer has log probabilities of another form")


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and bool(entry)
        and all(isinstance(token, dict) and token.keys() >= _TOKEN_KEYS for token in entry.values())
    )
