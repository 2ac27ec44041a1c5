"""Attributions: what each prompt token adds to an answer."""

from __future__ import annotations

import secrets
from typing import Any

from control_plane.errors import EngineFailed
from control_plane.registry.catalog import Model
from control_plane.triton import codec
from control_plane.triton.client import TritonClient


async def attribute(
    client: TritonClient,
    model: Model,
    request_id: str,
    prompt: str,
    target: str | None,
    *,
    timeout: float,
) -> dict[str, Any]:
    """What `backends.attribution` documents. Raises `TriadError`."""
    unique = f"{request_id}.{secrets.token_hex(4)}"
    message = codec.attribution_request(model.name, unique, prompt, target)
    stream = client.infer(message, timeout=timeout)
    answer: dict[str, Any] | None = None
    try:
        async for responses in stream:
            for response in responses:
                answer = codec.json_answer(response)
    finally:
        stream.cancel()
    if answer is None:
        raise EngineFailed("the model ended the stream early")
    return answer
