"""More streams than Triton can send token by token: merging keeps the pace, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import time

from tests.support.contract import describe
from tests.support.server import TriadServer, wait_until

STREAMS, TOKENS, INTERVAL_MS = 300, 40, 100


async def stream(port: int, number: int, tokens: int = TOKENS) -> bool:
    """Whether a stream's text is its own numbers, all of them and in order."""
    first = 1000 * number
    script = {"tokens": tokens, "interval_ms": INTERVAL_MS, "first": first}
    body = json.dumps({"model": "scripted", "prompt": json.dumps(script), "stream": True})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /generate HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    writer.write(f"{head}\r\n\r\n{body}".encode())
    lines = (await reader.read()).decode().splitlines()
    writer.close()
    await writer.wait_closed()
    text = "".join(
        json.loads(line.removeprefix("data: "))["text"]
        for line in lines
        if line.startswith("data:")
    )
    return text == "".join(f"{i} " for i in range(first, first + tokens))


async def seconds_of_all(port: int, tokens: int) -> float:
    began = time.monotonic()
    right = await asyncio.gather(*(stream(port, n, tokens) for n in range(STREAMS)))
    assert sum(right) == STREAMS
    return time.monotonic() - began


async def test_300_streams_keep_their_pace(server: TriadServer) -> None:
    started = await seconds_of_all(server.port, tokens=1)
    took = await seconds_of_all(server.port, TOKENS)
    # Beside the engine's pace, what a machine as busy as this one takes to start 300 requests.
    assert took < TOKENS * INTERVAL_MS / 1000 + max(11, 4 * started)
    wait_until(lambda: describe(server.grpc, "scripted")["requests"] == 0)
    wait_until(lambda: server.gauge("triad_requests_running") == 0)
