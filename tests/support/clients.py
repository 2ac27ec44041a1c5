"""Both clients of Triton, for tests that both have to pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from control_plane.cluster.servers import CLIENTS
from control_plane.triton.client import InferStream, TritonClient

__all__ = ["CLIENTS", "PATIENT", "connected", "read"]

PATIENT = 60.0
"""Seconds, for what is over at once on a quiet machine."""


@asynccontextmanager
async def connected(kind: str, endpoint: str) -> AsyncIterator[TritonClient]:
    """Its control metadata is ``triton-grpc-protocol-key: value``."""
    client: TritonClient = CLIENTS[kind](endpoint, (("triton-grpc-protocol-key", "value"),))
    try:
        yield client
    finally:
        await client.close()


async def read(stream: InferStream) -> list[str]:
    """The responses' ids."""
    return [response.id async for responses in stream for response in responses]
