"""Tokens that another server vouches for, and what somebody without one can do."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from control_plane.auth import introspection
from control_plane.auth.authenticator import Authenticator, open_authenticator
from control_plane.auth.caller import pseudonym
from control_plane.errors import RateLimited, Unauthorized, Unavailable
from control_plane.settings import AuthSettings
from tests.support.token_server import TokenServer, token_server

GOOD = {"active": True, "scope": "llm:generate", "sub": "ann"}
ANN = f"token:{pseudonym('ann')}"
HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"

Opener = Callable[..., AbstractAsyncContextManager[Authenticator]]


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with token_server({"good": GOOD}) as running:
        yield running


@pytest.fixture
def opened(tokens: TokenServer, tmp_path: Path) -> Opener:
    def open_(**settings: Any) -> AbstractAsyncContextManager[Authenticator]:  # noqa: ANN401
        given: dict[str, Any] = {
            "token_validation_url": tokens.url,
            "key_store": tmp_path / "keys.db",
        } | settings
        return open_authenticator(AuthSettings(**given))

    return open_


async def ask(authenticator: Authenticator, token: str, host: str = HERE) -> str:
    """Who it is."""
    headers = Headers({"authorization": f"Bearer {token}"})
    return (await authenticator.authenticate(headers, host)).id


async def outcomes(
    authenticator: Authenticator, tokens: list[str], host: str = HERE
) -> list[type[BaseException] | str]:
    """Of all at once."""
    asked = (ask(authenticator, token, host) for token in tokens)
    results = await asyncio.gather(*asked, return_exceptions=True)
    return [r if isinstance(r, str) else type(r) for r in results]


async def test_an_address_may_guess_so_often(opened: Opener, tokens: TokenServer) -> None:
    async with opened(max_failures_per_minute=10) as authenticator:
        assert await ask(authenticator, "good") == ANN
        guesses = [f"guess{number}" for number in range(200)]
        got = await outcomes(authenticator, guesses)
        assert got.count(Unauthorized) == 10
        assert got.count(RateLimited) == 190
        assert len(tokens.asked) == 11  # the server was not bothered with the rest
        with pytest.raises(RateLimited) as raised:
            await ask(authenticator, "another")
        assert 50 < int(raised.value.headers["Retry-After"]) <= 60
        assert await ask(authenticator, "good") == ANN  # it is known to be valid
        with pytest.raises(Unauthorized):
            await ask(authenticator, "another", ELSEWHERE)


async def test_of_ipv6_a_network_counts(opened: Opener) -> None:
    async with opened(max_failures_per_minute=3) as authenticator:
        hosts = [f"2001:db8:1:2:{number:x}::1" for number in range(8)]
        got = [(await outcomes(authenticator, [f"t{host}"], host))[0] for host in hosts]
        assert got.count(Unauthorized) == 3
        assert (await outcomes(authenticator, ["x"], "2001:db8:1:3::1")) == [Unauthorized]


async def test_nobody_is_asked_about_keys_of_ours(opened: Opener, tokens: TokenServer) -> None:
    """One that is revoked, or misspelt, is nobody else's business."""
    async with opened() as authenticator:
        assert await outcomes(authenticator, ["triad_of_nobody"]) == [Unauthorized]
        assert tokens.asked == []


async def test_keys_are_not_to_be_guessed_either(tmp_path: Path) -> None:
    settings = AuthSettings(key_store=tmp_path / "keys.db", max_failures_per_minute=5)
    async with open_authenticator(settings) as authenticator:
        got = await outcomes(authenticator, [f"triad_{number}" for number in range(9)])
        assert got == [Unauthorized] * 5 + [RateLimited] * 4


async def test_a_flood_drives_no_valid_token_out(
    opened: Opener, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "MAX_KNOWN", 20)
    async with opened(max_failures_per_minute=10_000) as authenticator:
        assert await ask(authenticator, "good") == ANN
        for number in range(100):
            assert await outcomes(authenticator, [f"guess{number}"]) == [Unauthorized]
        assert await ask(authenticator, "good") == ANN
        assert tokens.asked.count("good") == 1


async def test_what_was_used_last_is_kept(
    opened: Opener, tokens: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "MAX_KNOWN", 3)
    tokens.tokens |= {name: GOOD for name in "abcd"}
    async with opened() as authenticator:
        for token in ("a", "b", "c", "a", "d", "a"):
            await ask(authenticator, token)
        assert tokens.asked == ["a", "b", "c", "d"]  # which took the place of b


async def test_refusals_are_kept_for_seconds(opened: Opener, tokens: TokenServer) -> None:
    async with opened(token_validation_cache=0.5) as authenticator:
        for _ in range(5):
            assert await outcomes(authenticator, ["new"]) == [Unauthorized]
        assert tokens.asked == ["new"]
        tokens.tokens["new"] = GOOD
        await asyncio.sleep(0.6)
        assert await ask(authenticator, "new") == ANN


async def test_so_many_questions_at_once(opened: Opener, tokens: TokenServer) -> None:
    """Who comes then is told at once to come again, and a failure of ours is nobody's."""
    tokens.delay = 0.5
    async with opened(max_failures_per_minute=100) as authenticator:
        began = time.monotonic()
        got = await outcomes(authenticator, [f"guess{number}" for number in range(60)])
        assert got.count(Unauthorized) == introspection.MAX_QUESTIONS
        assert got.count(Unavailable) == 60 - introspection.MAX_QUESTIONS
        assert time.monotonic() - began < 5
        tokens.delay = 0
        assert await ask(authenticator, "good") == ANN


async def test_an_outage_is_no_guess_and_one_line(
    opened: Opener, tokens: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    tokens.status = 500
    url = tokens.url.replace("//", "//user:password@")
    with caplog.at_level(logging.ERROR):
        async with opened(max_failures_per_minute=5, token_validation_url=url) as authenticator:
            for number in range(20):
                assert await outcomes(authenticator, [f"t{number}"]) == [Unavailable]
    (record,) = caplog.records
    assert "status 500" in record.getMessage()
    assert "127.0.0.1" in record.getMessage()
    assert "password" not in record.getMessage()


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (None, {"aud": "other"}),
        ("triad", {"aud": "triad"}),
        ("triad", {"aud": ["x", "triad"]}),
    ],
)
async def test_whom_a_token_is_for(
    opened: Opener, tokens: TokenServer, given: str | None, answer: dict[str, Any]
) -> None:
    tokens.tokens["t"] = GOOD | answer
    async with opened(audience=given) as authenticator:
        assert await ask(authenticator, "t") == ANN


@pytest.mark.parametrize("aud", ["other", ["x", "y"], "triadx", None, [], {"triad": 1}, 5])
async def test_a_token_that_is_for_others(opened: Opener, tokens: TokenServer, aud: object) -> None:
    tokens.tokens["t"] = GOOD | {"aud": aud}
    async with opened(audience="triad") as authenticator:
        assert await outcomes(authenticator, ["t"]) == [Unauthorized]


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(GOOD | {"exp": float("nan")}).encode(),
        json.dumps(GOOD | {"exp": float("inf")}).encode(),
        json.dumps(GOOD | {"exp": 10**400}).encode(),
        json.dumps(GOOD | {"exp": True}).encode(),
        json.dumps(GOOD | {"exp": "4000000000"}).encode(),
        json.dumps(GOOD | {"sub": {"name": "ann"}}).encode(),
        b'{"active": true, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"active": tru',
        b"\xff\xfe",
    ],
    ids=["nan", "inf", "huge", "true", "text", "sub", "deep", "cut", "bytes"],
)
async def test_an_answer_that_is_none(opened: Opener, tokens: TokenServer, answer: bytes) -> None:
    tokens.tokens["t"] = answer
    async with opened() as authenticator:
        assert await outcomes(authenticator, ["t"]) == [Unavailable]


async def test_a_long_token_is_not_asked_about(opened: Opener, tokens: TokenServer) -> None:
    async with opened() as authenticator:
        assert await outcomes(authenticator, ["x" * 8193]) == [Unauthorized]
        assert tokens.asked == []
        assert await outcomes(authenticator, ["x" * 8000]) == [Unauthorized]
        assert len(tokens.asked) == 1


async def test_the_authorization_is_sent_there_alone(opened: Opener, tokens: TokenServer) -> None:
    async with opened(token_validation_authorization=SecretStr("Basic x")) as authenticator:
        assert await ask(authenticator, "good") == ANN
    assert tokens.authorizations == {"Basic x"}
