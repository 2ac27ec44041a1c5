"""A model's responses, kept as they came, and given again for an equal request.

They are kept when the answer has come to its end. An answer that was streamed serves requests for
whole ones as well, and the other way round: the responses say the same, in more parts or fewer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from google.protobuf.message import DecodeError
from prometheus_client import Counter
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from control_plane.cache.store import MAX_VALUE_BYTES, Store, StoreError, open_store
from control_plane.observability.metrics import Metrics
from control_plane.settings import CachingSettings
from control_plane.triton.client import InferStream
from control_plane.triton.codec import Delta, delta

logger = logging.getLogger(__name__)

_VERSION = b"2"
"""Of what is kept, and of its key."""
MAX_UNPACKED_BYTES = MAX_VALUE_BYTES
"""Of one answer's responses. A larger answer is not kept; a value that unpacks to more is none."""
_FINISH_REASONS = ("stop", "length")
_TOKEN_KEYS = {"logprob", "rank", "decoded_token"}
_COMPLAINT_SECONDS = 30.0
"""A store that does not work is spoken of so often at most."""


class ResponseCache:
    """A store that does not work costs nothing but its answers: they are computed then."""

    def __init__(
        self, store: Store, metrics: Metrics, *, sampled: bool = False, shared: bool = False
    ) -> None:
        """``sampled``: answers in which chance has a part are kept as well. ``shared``: one caller
        gets another's answers."""
        self.sampled = sampled
        self._shared = shared
        self._store = store
        self._counter = Counter(
            "triad_cache_requests",
            "Requests that could be answered from the cache, by result: hit, miss, error",
            ["result"],
            registry=metrics.registry,
        )
        self._putting: set[asyncio.Task[None]] = set()
        self._complained = float("-inf")

    def key(self, request: ModelInferRequest, model_facts: str, caller: str) -> bytes:
        """Name what an answer depends on. ``request``: without an id, and always as a stream; the
        client's `cache_salt` is in it. ``model_facts``: what may change under one name."""
        parts = (
            _VERSION,
            model_facts.encode(),
            b"" if self._shared else caller.encode(),
            request.SerializeToString(deterministic=True),
        )
        return hashlib.sha256(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).digest()

    def stream(
        self, key: bytes, begin: Callable[[], InferStream], *, reads: bool = True
    ) -> InferStream:
        """The responses that ``key`` has, or else those of the stream that ``begin`` begins."""
        return _CachedStream(self, key, begin, reads=reads)

    async def get(self, key: bytes) -> list[ModelInferResponse] | None:
        try:
            value = await self._store.get(key)
            found = None if value is None else _unpacked(value)
        except (StoreError, ValueError) as error:
            self._complain(error)
            self._counter.labels("error").inc()
            return None
        self._counter.labels("miss" if found is None else "hit").inc()
        return found

    def put(self, key: bytes, responses: Sequence[ModelInferResponse]) -> None:
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
        if (now := time.monotonic()) > self._complained + _COMPLAINT_SECONDS:
            self._complained = now
            logger.warning("the cache does not work now, answers are computed: %s", error)

    async def close(self) -> None:
        if self._putting:
            await asyncio.wait(self._putting)
        await self._store.close()


@asynccontextmanager
async def open_cache(
    settings: CachingSettings, metrics: Metrics
) -> AsyncIterator[ResponseCache | None]:
    """None where nothing is to be kept. Raises `StoreError`."""
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
    """Implements `InferStream`."""

    def __init__(
        self, cache: ResponseCache, key: bytes, begin: Callable[[], InferStream], *, reads: bool
    ) -> None:
        self._cache = cache
        self._key = key
        self._begin = begin
        self._reads = reads
        self._stream: InferStream | None = None
        self._responses: list[ModelInferResponse] = []
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Sequence[ModelInferResponse]]:
        return self

    async def __anext__(self) -> Sequence[ModelInferResponse]:
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
        complete = self._responses and delta(self._responses[-1]).finish_reason is not None
        if complete and not self._ended:
            self._cache.put(self._key, self._responses)
        self._ended = True

    def cancel(self) -> None:
        self._ended = True
        if self._stream is not None:
            self._stream.cancel()

    async def rest(self) -> Sequence[ModelInferResponse]:
        return () if self._stream is None else await self._stream.rest()


def _packed(responses: Sequence[ModelInferResponse]) -> bytes | None:
    """None for an answer that is too large to be kept."""
    parts = []
    for response in responses:
        body = response.SerializeToString()
        parts += [len(body).to_bytes(4, "little"), body]
    data = b"".join(parts)
    return zlib.compress(data, 1) if len(data) <= MAX_UNPACKED_BYTES else None


def _unpacked(value: bytes) -> list[ModelInferResponse]:
    """The responses of a whole answer. Raises `ValueError` for a value that is none: others may
    write into the store, and another version of this program may have done so."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(value, MAX_UNPACKED_BYTES)
        if not unpacker.eof:
            raise ValueError("a kept answer is cut off or too large")
        responses, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            responses.append(ModelInferResponse.FromString(data[at + 4 : at + 4 + size]))
            at += 4 + size
        _check_whole([delta(response) for response in responses])
    except (zlib.error, DecodeError) as error:
        raise ValueError(f"a kept answer cannot be read: {error}") from None
    return responses


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
