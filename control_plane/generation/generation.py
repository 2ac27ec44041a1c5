"""One generation: its deltas, its times, and its one ending."""

from __future__ import annotations

import asyncio
import logging
import reprlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from control_plane.errors import ClientDisconnected, DeadlineExceeded, EngineFailed, TriadError
from control_plane.generation.requests import TokenReservation
from control_plane.inference.client import ResponseStream
from control_plane.inference.responses import Delta
from control_plane.models.catalog import Model
from control_plane.observability.metrics import Metrics
from control_plane.observability.stats import Stats

logger = logging.getLogger(__name__)


_MAX_METADATA_FIELDS = 8
_MAX_METADATA_CHARACTERS = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxstring = 2, _MAX_METADATA_FIELDS, 64


def _brief(metadata: Mapping[str, Any]) -> str:
    """Return metadata for the log, shortened whatever it holds: `repr` would write all of it
    first."""
    few = dict(islice(metadata.items(), _MAX_METADATA_FIELDS))
    text = _SHORT.repr(few)[:_MAX_METADATA_CHARACTERS]
    return text if len(few) == len(metadata) else f"{text} and {len(metadata) - len(few)} more"


class Generation:
    """An iterator over batches of `Delta`: each holds what was waiting. The last has a
    ``finish_reason``. Iteration raises `TriadError`.

    However it ends (finished, failed, aborted, left), `close` settles it exactly once.
    """

    def __init__(
        self,
        request_id: str,
        model: Model,
        metrics: Metrics,
        stats: Stats,
        on_close: Callable[[Generation, BaseException | None], None],
        *,
        timeout: float,
        stream: bool,
        metadata: Mapping[str, Any],
    ) -> None:
        self.request_id = request_id
        self._metadata = metadata
        self.model = model
        self.tokens = 0
        self.prompt_tokens = 0  # where they are asked for
        self.finish_reason: str | None = None
        self.queue_depth: int | None = None  # where the engine says so
        self.queue_wait: float | None = None  # seconds
        self.reservation: TokenReservation | None = None  # where its caller has a limit
        self._stats = stats
        self._on_close = on_close
        self._measures_tokens = stream  # one response for all tokens says nothing of each
        self._stream: ResponseStream[Delta] | None = None
        self._first: Sequence[Delta] | None = None
        self._abort: TriadError | None = None
        self._closed = False
        self._started = self._last = time.monotonic()
        label = model.served_name
        self._requests = metrics.requests
        self._running = metrics.running.labels(label)
        self._queue_waits = metrics.queue_wait.labels(label)
        self._time_to_first_token = metrics.time_to_first_token.labels(label)
        self._inter_token_latency = metrics.inter_token_latency.labels(label)
        self._duration = metrics.duration.labels(label)
        self._generated_tokens = metrics.generated_tokens.labels(label)
        self._running.inc()
        self._deadline = asyncio.get_running_loop().call_later(
            timeout, self.abort, DeadlineExceeded()
        )

    @property
    def seconds(self) -> float:
        """Return the time from the request's arrival to its last response so far."""
        return self._last - self._started

    def attach(self, stream: ResponseStream[Delta]) -> None:
        self._stream = stream

    async def pull_first(self) -> None:
        self._first = await self._pull()

    def __aiter__(self) -> AsyncIterator[Sequence[Delta]]:
        return self

    async def __anext__(self) -> Sequence[Delta]:
        if self._first is not None:
            deltas, self._first = self._first, None
            return deltas
        if self.finish_reason is not None:
            await self._end()
            raise StopAsyncIteration
        return await self._pull()

    async def _end(self) -> None:
        """Read the stream to its end: a call that has ended need not be cancelled at the server."""
        assert self._stream is not None
        with suppress(TriadError):  # the answer is complete: what comes after it cannot matter
            async for _ in self._stream:
                pass

    async def _pull(self) -> Sequence[Delta]:
        assert self._stream is not None
        try:
            deltas = await self._stream.__anext__()
        except StopAsyncIteration:
            raise self._abort or EngineFailed("the model ended the stream early") from None
        self._account(deltas)
        return deltas

    def _account(self, deltas: Sequence[Delta]) -> None:
        now = time.monotonic()
        count = 0
        for d in deltas:
            count += d.tokens
        if not self._measures_tokens:
            pass
        elif not self.tokens:
            self._time_to_first_token.observe(now - self._started)
        elif count:
            self._inter_token_latency.observe((now - self._last) / count)
        if (wait := deltas[0].queue_wait) is not None and self.queue_wait is None:
            self.queue_depth, self.queue_wait = deltas[0].queue_depth, wait
            self._queue_waits.observe(wait)
        self._last = now
        self.tokens += count
        self.prompt_tokens = deltas[-1].prompt_tokens
        self.finish_reason = deltas[-1].finish_reason

    async def settle(self) -> None:
        """Wait, once it is closed, for a request that was cancelled to end at the server, and count
        what was computed for it and not read."""
        if self._stream is None or self.finish_reason is not None:
            return
        for delta in await self._stream.rest():
            self.tokens += delta.tokens
            self.prompt_tokens = max(self.prompt_tokens, delta.prompt_tokens)

    def abort(self, error: TriadError) -> None:
        """Make the iteration raise ``error``, and end the request at the server."""
        if self._abort is None and self.finish_reason is None:
            self._abort = error
            if self._stream is not None:
                self._stream.cancel()

    def close(self, error: BaseException | None = None) -> None:
        """Settle the accounts; end the request at the server if it is still running there."""
        if self._closed:
            return
        self._closed = True
        self._deadline.cancel()
        if self._stream is not None:
            self._stream.cancel()
        self._on_close(self, error)
        self._running.dec()
        self._generated_tokens.inc(self.tokens)
        self._duration.observe(time.monotonic() - self._started)
        self._requests.labels(self.model.served_name, self._outcome(error)).inc()
        if self.finish_reason is not None:
            self._stats.add(self.tokens, self.seconds)
        logger.info(
            "%s %s: %s, %d tokens, %.3f s, metadata %s",
            self.request_id,
            self.model.served_name,
            self._outcome(error),
            self.tokens,
            time.monotonic() - self._started,
            _brief(self._metadata),
        )

    def _outcome(self, error: BaseException | None) -> str:
        if self.finish_reason is not None:
            return self.finish_reason
        if isinstance(error, TriadError):
            return error.type
        if error is None or isinstance(error, asyncio.CancelledError):
            return ClientDisconnected.type
        return TriadError.type
