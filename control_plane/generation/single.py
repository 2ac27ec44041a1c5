"""Requests that have one response and generate nothing for their client."""

from __future__ import annotations

from tritonclient.grpc.service_pb2 import ModelInferRequest

from control_plane.errors import EngineFailed
from control_plane.triton import codec
from control_plane.triton.client import TritonClient


async def ask(client: TritonClient, message: ModelInferRequest, *, timeout: float) -> bytes:
    """The response's text. Raises `TriadError`."""
    stream = client.infer(message, timeout=timeout)
    answer: bytes | None = None
    try:
        async for responses in stream:
            for response in responses:
                answer = codec.answer(response)
    finally:
        stream.cancel()
    if answer is None:
        raise EngineFailed("the model ended the stream early")
    return answer
