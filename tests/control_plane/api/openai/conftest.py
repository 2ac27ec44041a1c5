"""Clients of the shared server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.server import TriadServer


@pytest.fixture
def client(server: TriadServer) -> Iterator[OpenAI]:
    """It does not try again: a test wants to see what failed."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as opened:
        yield opened


@pytest.fixture
async def async_client(server: TriadServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60
    ) as opened:
        yield opened
