"""The Triton client, for tests that speak to a server of their own in raw messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tritonclient.grpc.service_pb2 import ModelInferRequest

from control_plane.inference.client import ResponseStream
from control_plane.triton.http2.client import Http2Client, Http2Stream

PATIENT = 60.0
"""Seconds, for what is over at once on a quiet machine."""


@asynccontextmanager
async def connected(endpoint: str) -> AsyncIterator[Http2Client]:
    """Its control metadata is ``triton-grpc-protocol-key: value``."""
    client = Http2Client(endpoint, (("triton-grpc-protocol-key", "value"),))
    try:
        yield client
    finally:
        await client.close()


def send(client: Http2Client, message: ModelInferRequest, timeout: float) -> Http2Stream[str]:
    """Send a raw message. Each item of the stream is a response's id."""
    return client.send(message, lambda response: str(response.id), timeout)


async def read(stream: ResponseStream[str]) -> list[str]:
    """Return all items of a stream."""
    return [item async for items in stream for item in items]
