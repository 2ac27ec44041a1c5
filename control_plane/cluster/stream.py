"""A request that goes on at another server when its own fails.

Until its first response it is simply sent again. After that, an answer that is generated goes on
behind the tokens that have come: the contract's `resume_token_ids`. So its responses have their
token ids with them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from control_plane.cluster.instance import Instance
from control_plane.errors import InvalidRequest, TriadError, Unavailable
from control_plane.triton import codec
from control_plane.triton.client import InferStream

logger = logging.getLogger(__name__)


class Servers(Protocol):
    """The cluster, as a stream sees it. ``running``: the streams that have not ended."""

    max_retries: int
    running: set[BalancedStream]

    def pick(self, model: str, tried: Sequence[Instance], failure: TriadError | None) -> Instance:
        """Raises ``failure`` where every instance that has the model was tried."""


class BalancedStream:
    """Implements `InferStream`."""

    def __init__(self, cluster: Servers, request: ModelInferRequest, timeout: float) -> None:
        self._cluster = cluster
        self._request = request
        self._deadline = time.monotonic() + timeout
        self._resumable = codec.is_generation(request)
        if self._resumable:
            codec.ask_for_token_ids(request)
        self._token_ids: list[int] = []
        self._tried: list[Instance] = []
        self._stream: InferStream | None = None
        self._left: InferStream | None = None  # the one that was cancelled
        self._failure: TriadError | None = None  # of the last server that was tried before
        self._death: TriadError | None = None  # of the model where it runs now
        self._started = self._cancelled = False
        self.instance: Instance | None = None

    @property
    def model(self) -> str:
        name: str = self._request.model_name
        return name

    def __aiter__(self) -> AsyncIterator[Sequence[ModelInferResponse]]:
        return self

    async def __anext__(self) -> Sequence[ModelInferResponse]:
        while not self._cancelled:
            if self._stream is None:
                self._begin()
            assert self._stream is not None
            try:
                responses = await self._stream.__anext__()
            except StopAsyncIteration:
                self._leave()
                if self._death is None or self._cancelled:
                    raise
                self._go_on(self._death)
            except InvalidRequest:
                self._leave()
                if self._failure is not None and self._token_ids:
                    raise self._failure from None  # it cannot be resumed there
                raise
            except TriadError as error:
                self._leave()
                self._go_on(error)
            else:
                self._started = True
                if self._resumable:
                    for response in responses:
                        self._token_ids += codec.token_ids(response)
                return responses
        raise StopAsyncIteration

    def _begin(self) -> None:
        """Raises `Unavailable`."""
        self.instance = self._cluster.pick(self.model, self._tried, self._failure)
        self._tried.append(self.instance)
        request = self._request
        if self._token_ids:
            request = codec.resumed(request, self._token_ids)
        elif self._failure is not None:
            request = codec.renewed(request)
        self.instance.running += 1
        self.instance.sent += 1
        self._cluster.running.add(self)
        timeout = max(self._deadline - time.monotonic(), 0.001)
        self._stream = self.instance.client.infer(request, timeout=timeout)

    def _go_on(self, error: TriadError) -> None:
        """Elsewhere. Raises ``error`` where that would not help, or too much was tried."""
        self._failure, self._death = error, None
        may_help = isinstance(error, Unavailable) and (self._resumable or not self._started)
        if not may_help or len(self._tried) > self._cluster.max_retries:
            raise error
        failed = self._tried[-1]
        failed.failed += 1
        failed.catalog.doubt()
        logger.warning(
            "%s: %s failed after %d tokens: %s",
            *(self._request.id, failed.endpoint, len(self._token_ids), error),
        )

    def fail(self, error: TriadError) -> None:
        """Its model has died: what it waits for will not come."""
        if self._stream is not None:
            self._death = error
            self._stream.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        if self._stream is not None:
            self._left = self._stream
            self._stream.cancel()
            self._leave()

    async def rest(self) -> Sequence[ModelInferResponse]:
        return () if self._left is None else await self._left.rest()

    def _leave(self) -> None:
        self._stream = None
        if self in self._cluster.running and self.instance is not None:
            self._cluster.running.discard(self)
            self.instance.running -= 1
