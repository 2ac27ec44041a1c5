"""A request that fails over to another server when its own fails.

Until its first response it is simply sent again. After that, an answer that is being generated is
resumed after the tokens that have come (`Generate.resume_token_ids`), so its responses carry their
token ids.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from backends.contract.names import TOKEN_IDS
from control_plane.cluster.instance import Instance
from control_plane.errors import InvalidRequest, TriadError, Unavailable
from control_plane.inference.client import ResponseStream
from control_plane.inference.requests import Generate, InferenceRequest
from control_plane.inference.responses import Delta

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Servers(Protocol):
    """The cluster, as a stream sees it. ``running``: the streams that have not ended."""

    max_retries: int
    running: set[BalancedStream[Any]]

    def pick(
        self,
        request: InferenceRequest[Any],
        tried: Sequence[Instance],
        failure: TriadError | None,
    ) -> Instance:
        """Return an instance that was not tried and has the model ready. Raises ``failure``, or
        `ModelNotReady`, where there is none."""


class BalancedStream(Generic[T]):
    """A stream that fails over. Implements `ResponseStream`."""

    def __init__(self, cluster: Servers, request: InferenceRequest[T], timeout: float) -> None:
        self._cluster = cluster
        self._request = request
        self._deadline = time.monotonic() + timeout
        self._resumable = isinstance(request, Generate)
        self._token_ids: list[int] = []
        self._tried: list[Instance] = []
        self._stream: ResponseStream[T] | None = None
        self._left: ResponseStream[T] | None = None  # the one that was cancelled
        self._failure: TriadError | None = None  # of the last server that was tried before
        self._unhealthy: TriadError | None = None  # why the model is unhealthy where it runs now
        self._started = self._cancelled = False
        self.instance: Instance | None = None

    @property
    def model(self) -> str:
        """Return Triton's name of the model."""
        return self._request.model

    def __aiter__(self) -> AsyncIterator[Sequence[T]]:
        return self

    async def __anext__(self) -> Sequence[T]:
        while not self._cancelled:
            if self._stream is None:
                self._begin()
            assert self._stream is not None
            try:
                responses = await self._stream.__anext__()
            except StopAsyncIteration:
                self._release()
                if self._unhealthy is None or self._cancelled:
                    raise
                self._fail_over(self._unhealthy)
            except InvalidRequest:
                self._release()
                if self._failure is not None and self._token_ids:
                    raise self._failure from None  # it cannot be resumed there
                raise
            except TriadError as error:
                self._release()
                self._fail_over(error)
            else:
                self._started = True
                for response in responses:
                    if isinstance(response, Delta):
                        self._token_ids += response.token_ids
                return responses
        raise StopAsyncIteration

    def _begin(self) -> None:
        """Send the request to a server. Raises `Unavailable`."""
        self.instance = self._cluster.pick(self._request, self._tried, self._failure)
        self._tried.append(self.instance)
        self.instance.begun()
        self._cluster.running.add(self)
        timeout = max(self._deadline - time.monotonic(), 0.001)
        self._stream = self.instance.client.infer(self._to_send(), timeout=timeout)

    def _to_send(self) -> InferenceRequest[T]:
        """Return the request, to be resumed after the tokens that have come."""
        request: InferenceRequest[Any] = self._request
        if not isinstance(request, Generate):
            return request
        returns = [*request.returns, *({TOKEN_IDS} - {*request.returns})]
        resumed: InferenceRequest[Any] = replace(
            request, returns=returns, resume_token_ids=list(self._token_ids)
        )
        return resumed

    def _fail_over(self, error: TriadError) -> None:
        """Prepare for another server. Raises ``error`` where another would not help, or where as
        many were tried as the settings allow."""
        self._failure, self._unhealthy = error, None
        may_help = isinstance(error, Unavailable) and (self._resumable or not self._started)
        if not may_help or len(self._tried) > self._cluster.max_retries:
            raise error
        failed = self._tried[-1]
        failed.has_failed()
        failed.catalog.request_refresh()
        logger.warning(
            "%s: %s failed after %d tokens: %s",
            self._request.request_id,
            failed.endpoint,
            len(self._token_ids),
            error,
        )

    def abort(self, error: TriadError) -> None:
        """Stop waiting for a model that has become unhealthy, for the reason ``error``."""
        if self._stream is not None:
            self._unhealthy = error
            self._stream.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        if self._stream is not None:
            self._left = self._stream
            self._stream.cancel()
            self._release()

    async def rest(self) -> Sequence[T]:
        return () if self._left is None else await self._left.rest()

    def _release(self) -> None:
        self._stream = None
        if self in self._cluster.running and self.instance is not None:
            self._cluster.running.discard(self)
            self.instance.ended()
