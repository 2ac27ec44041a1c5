"""What is settled is what was used, to the token, whichever way requests end."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import httpx2
import pytest

from control_plane.errors import EngineFailed
from control_plane.inference.fake import FakeModelClient, Step
from control_plane.inference.prompts import Text
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from tests.support.gateway import fake_client, served, until

REQUESTS, AT_ONCE = 500, 40
PER_MINUTE = 600_000
CALLER = "address:127.0.0.1"
AHEAD = 30.0
"""Seconds that the caller's bucket takes to fill when a test begins, so that it never is full."""


class Model:
    """A model that knows how many tokens it has computed."""

    def __init__(self, chance: random.Random) -> None:
        self.used = 0
        self._chance = chance

    def answer(self, request: Generate) -> Iterable[Step[Delta]]:
        text = request.prompt.text if isinstance(request.prompt, Text) else request.prompt
        assert isinstance(text, str)
        kind, prompt_tokens, count = text.split()
        prompt, tokens = int(prompt_tokens), int(count)
        deltas: list[Step[Delta]] = [
            Delta("a", 1, "stop" if i == tokens - 1 else None, prompt_tokens=prompt)
            for i in range(tokens)
        ]
        self.used += prompt + tokens
        if kind == "hangs":  # until its client has left
            deltas.insert(self._chance.randrange(1, tokens), asyncio.Event())
        if kind == "fails":
            self.used -= 1
            deltas[-1] = EngineFailed("it broke")
        return deltas if request.stream else _whole(deltas)


def _whole(steps: Iterable[Step[Delta]]) -> Iterable[Step[Delta]]:
    """Return the steps of an answer that is sent in one part, if it is not failed or cancelled."""
    steps = list(steps)
    deltas = [step for step in steps if isinstance(step, Delta)]
    if len(deltas) < len(steps):
        return steps
    text = "".join(delta.text for delta in deltas)
    return [Delta(text, len(deltas), "stop", prompt_tokens=deltas[0].prompt_tokens)]


def settled(file: Path) -> float:
    with closing(sqlite3.connect(file)) as connection:
        query = "select state from callers where caller = ?"
        ((state,),) = connection.execute(query, (CALLER,))
    full_at, _ = json.loads(state)
    return float(full_at["tokens"])


async def ask(http: httpx2.AsyncClient, kind: str, prompt: int, tokens: int, stream: bool) -> None:
    """Send a request, and leave if its answer hangs."""
    path = "/generate" if prompt % 2 else "/v1/completions"
    body = {"prompt": f"{kind} {prompt} {tokens}", "max_tokens": tokens + 5, "stream": stream}
    if kind != "hangs":
        response = await http.post(path, json=body)
        assert response.status_code in (200, 500), response.text
        return
    with suppress(httpx2.TimeoutException):
        await http.post(path, json=body, timeout=0.3)


async def test_tokens_settled_are_tokens_used(tmp_path: Path) -> None:
    """Three in ten clients leave, and one in ten answers fails."""
    chance, file = random.Random(1), tmp_path / "limits.db"
    model, client = Model(chance), fake_client()
    client.on(Generate, model.answer)
    limiting = {
        "enabled": True,
        "requests_per_minute": 100_000,
        "burst_allowance": 100_000,
        "tokens_per_minute": PER_MINUTE,
        "file": str(file),
    }
    async with served(client, rate_limiting=limiting) as server:
        began = _use_up(file)
        limits = httpx2.Limits(max_connections=AT_ONCE)
        url = f"http://127.0.0.1:{server.port}"
        async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=30) as http:
            gate = asyncio.Semaphore(AT_ONCE)

            async def one() -> None:
                kind = chance.choices(["ends", "hangs", "fails"], [6, 3, 1])[0]
                prompt, tokens = chance.randrange(1, 400), chance.randrange(2, 40)
                async with gate:
                    await ask(http, kind, prompt, tokens, chance.random() < 0.6)

            await asyncio.gather(*(one() for _ in range(REQUESTS)))
        service = server.app.state.services.generation
        await until(lambda: not service.running and not service._settling)
    assert _answered(client) > 0.8 * REQUESTS  # others have left before they were read
    assert (settled(file) - began) * PER_MINUTE / 60 == pytest.approx(model.used, abs=0.5)


def _use_up(file: Path) -> float:
    """Empty the caller's bucket, and return the time at which it would be full."""
    full_at = time.time() + AHEAD
    with closing(sqlite3.connect(file)) as connection, connection:  # which commits
        row = (CALLER, json.dumps([{"tokens": full_at}, {}]), full_at)
        connection.execute("insert or replace into callers values (?, ?, ?)", row)
    return full_at


def _answered(client: FakeModelClient) -> int:
    return sum(isinstance(request, Generate) for request in client.requests)
