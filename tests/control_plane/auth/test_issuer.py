"""The issuer of JSON Web Tokens: its keys change, and it is away, slow or wrong."""

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
from starlette.datastructures import Headers

from control_plane.auth import issuer as module
from control_plane.auth.authenticator import Authenticator, open_authenticator
from control_plane.auth.public_keys import MAX_KEYS
from control_plane.errors import RateLimited, Unauthorized, Unavailable
from control_plane.settings import AuthSettings
from tests.support.gateway import gateway, until
from tests.support.issuer import AUDIENCE, Issuer, running_issuer

HOST = "192.0.2.1"

Opener = Callable[..., AbstractAsyncContextManager[Authenticator]]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        running.add_key("first")
        yield running


@pytest.fixture
def values(issuer: Issuer, tmp_path: Path) -> dict[str, Any]:
    return {
        "enabled": True,
        "auth_type": "jwt",
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "jwks_url": issuer.jwks_url,
        "key_store": str(tmp_path / "keys.db"),
        "max_failures_per_minute": 100_000,
    }


@pytest.fixture
def opened(values: dict[str, Any]) -> Opener:
    def open_(**changes: Any) -> AbstractAsyncContextManager[Authenticator]:  # noqa: ANN401
        settings = {**values, "key_store": Path(values["key_store"]), **changes}
        return open_authenticator(AuthSettings.model_validate(settings))

    return open_


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.2)


async def ask(authenticator: Authenticator, token: str, host: str = HOST) -> str:
    headers = Headers({"authorization": f"Bearer {token}"})
    return (await authenticator.authenticate(headers, host)).id


async def outcome(authenticator: Authenticator, token: str) -> type[BaseException] | None:
    try:
        await ask(authenticator, token)
    except (Unauthorized, Unavailable, RateLimited) as error:
        return type(error)
    return None


async def test_a_crowd_at_the_start_fetches_once(opened: Opener, issuer: Issuer) -> None:
    issuer.delay = 0.2
    async with opened() as authenticator:
        tokens = [issuer.token("first", jti=str(number)) for number in range(50)]
        got = await asyncio.gather(*(outcome(authenticator, token) for token in tokens))
        assert set(got) == {None}
    assert issuer.asked == ["/keys"]


async def test_the_issuer_says_where_its_keys_are(opened: Opener, issuer: Issuer) -> None:
    async with opened(jwks_url=None) as authenticator:
        assert await outcome(authenticator, issuer.token("first")) is None
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://other.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": 5},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "ftp://127.0.0.1/keys"},
        {"jwks_uri": "http://[::1"},
        {"jwks_uri": "http://127.0.0.1:1/keys"},
    ],
)
async def test_a_configuration_that_is_wrong(
    opened: Opener, issuer: Issuer, changes: dict[str, Any]
) -> None:
    issuer.configuration |= changes
    async with opened(jwks_url=None) as authenticator:
        assert await outcome(authenticator, issuer.token("first")) is Unavailable


async def test_a_new_key_is_fetched_when_a_token_names_it(
    opened: Opener, issuer: Issuer, short_pause: None
) -> None:
    async with opened() as authenticator:
        assert await outcome(authenticator, issuer.token("first")) is None
        issuer.add_key("second")
        await asyncio.sleep(0.25)
        assert await outcome(authenticator, issuer.token("second")) is None
        assert await outcome(authenticator, issuer.token("first")) is None
        assert len(issuer.asked) == 2


async def test_a_key_that_is_gone_verifies_nothing_any_more(
    opened: Opener, issuer: Issuer, short_pause: None
) -> None:
    """Nor do tokens count that were verified with it before."""
    async with opened(jwks_refresh_interval=0.3) as authenticator:
        token = issuer.token("first")
        assert await outcome(authenticator, token) is None
        issuer.keys.clear()
        issuer.add_key("second")
        fetched = len(issuer.asked)
        await until(lambda: len(issuer.asked) > fetched)
        await asyncio.sleep(0.1)
        assert await outcome(authenticator, token) is Unauthorized
        assert await outcome(authenticator, issuer.token("second")) is None


async def test_tokens_are_kept_while_keys_are_the_same(
    opened: Opener, issuer: Issuer, short_pause: None
) -> None:
    async with opened(jwks_refresh_interval=0.21) as authenticator:
        token = issuer.token("first")
        headers = Headers({"authorization": f"Bearer {token}"})
        first = await authenticator.authenticate(headers, HOST)
        await until(lambda: len(issuer.asked) >= 3)
        assert await authenticator.authenticate(headers, HOST) is first


async def test_keys_that_nobody_has_do_not_make_us_ask_again_and_again(
    opened: Opener, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 1.0)
    issuer.private["random"] = issuer.private["first"]
    async with opened() as authenticator:
        assert await outcome(authenticator, issuer.token("first")) is None
        began = time.monotonic()
        for number in range(200):
            token = issuer.token("random", header={"kid": f"random{number}"})
            assert await outcome(authenticator, token) is Unauthorized
        assert len(issuer.asked) <= 2 + (time.monotonic() - began)
        assert await outcome(authenticator, issuer.token("first", sub="b")) is None


async def test_who_guesses_keys_is_stopped(opened: Opener, issuer: Issuer) -> None:
    issuer.private["random"] = issuer.private["first"]
    async with opened(max_failures_per_minute=10) as authenticator:
        tokens = [issuer.token("random", header={"kid": f"r{number}"}) for number in range(30)]
        got = await asyncio.gather(*(outcome(authenticator, token) for token in tokens))
        assert (got.count(Unauthorized), got.count(RateLimited)) == (10, 20)


async def test_an_issuer_that_is_away_from_the_start(
    opened: Opener, issuer: Issuer, caplog: pytest.LogCaptureFixture, short_pause: None
) -> None:
    """Its tokens are answered with a 503, which is nobody's failure; and then it comes back."""
    issuer.status = 500
    with caplog.at_level(logging.ERROR):
        async with opened(max_failures_per_minute=5) as authenticator:
            for number in range(20):
                token = issuer.token("first", jti=str(number))
                assert await outcome(authenticator, token) is Unavailable
            issuer.status = 200
            fetched = len(issuer.asked)
            await until(lambda: len(issuer.asked) > fetched)
            await asyncio.sleep(0.1)
            assert await outcome(authenticator, issuer.token("first")) is None
    (record,) = caplog.records
    assert "status 500" in record.getMessage()
    assert issuer.url in record.getMessage()


async def test_nobody_listens(opened: Opener, issuer: Issuer) -> None:
    async with opened(jwks_url="http://127.0.0.1:1/keys") as authenticator:
        began = time.monotonic()
        for number in range(20):  # the first one finds out, and the others need not wait
            token = issuer.token("first", jti=str(number))
            assert await outcome(authenticator, token) is Unavailable
        assert time.monotonic() - began < 3


async def test_known_keys_are_used_on_for_a_while(
    opened: Opener, issuer: Issuer, short_pause: None
) -> None:
    async with opened(jwks_refresh_interval=0.2, jwks_max_age=2.0) as authenticator:
        token = issuer.token("first")
        assert await outcome(authenticator, token) is None
        issuer.status = 503
        issuer.add_key("second")
        fetched = len(issuer.asked)
        await until(lambda: len(issuer.asked) > fetched + 1)
        assert await outcome(authenticator, token) is None
        assert await outcome(authenticator, issuer.token("first", sub="new")) is None
        # It may be a key that is new, and the issuer cannot be asked.
        assert await outcome(authenticator, issuer.token("second")) is Unavailable
        await asyncio.sleep(2.2)
        assert await outcome(authenticator, token) is Unavailable
        assert await outcome(authenticator, issuer.token("first", sub="newer")) is Unavailable
        issuer.status = 200
        await asyncio.sleep(0.5)
        assert await outcome(authenticator, token) is None


@pytest.mark.parametrize(("delay", "pause"), [(2.0, 0.0), (0.0, 0.05)])
async def test_an_issuer_that_is_slow(
    opened: Opener, issuer: Issuer, delay: float, pause: float
) -> None:
    """Also one that sends a byte now and then. All wait for one answer, and no longer than said."""
    issuer.delay, issuer.pause = delay, pause
    async with opened(jwks_timeout=0.5) as authenticator:
        began = time.monotonic()
        tokens = [issuer.token("first", jti=str(number)) for number in range(20)]
        got = await asyncio.gather(*(outcome(authenticator, token) for token in tokens))
        assert set(got) == {Unavailable}
        assert time.monotonic() - began < 1.9
        assert len(issuer.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b"5",
        b'{"keys": 5}',
        b'{"keys": []}',
        b'{"keys": ["x"]}',
        b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "first"}]}',
        b'{"keys": [{}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "kid": "first"}]}',
        b'{"keys": [{"kty": ["EC"], "crv": {}, "use": [], "key_ops": 5}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-256", "key_ops": 5}]}',
        b"[" * 100_000,
        b'{"keys": [' + b"{}," * MAX_KEYS + b"{}]}",
        b'{"keys": [{"kty": "EC", "x": "' + b"A" * module.MAX_BYTES + b'"}]}',
    ],
    ids=lambda answer: answer[:40].decode(errors="replace"),
)
async def test_an_answer_that_is_no_key_set(
    opened: Opener, issuer: Issuer, answer: bytes, short_pause: None
) -> None:
    """The keys of before hold, until there are others."""
    issuer.answer = answer
    async with opened(jwks_refresh_interval=0.2) as authenticator:
        assert await outcome(authenticator, issuer.token("first")) is Unavailable
        issuer.answer = None
        await asyncio.sleep(0.5)
        assert await outcome(authenticator, issuer.token("first")) is None
        issuer.answer = answer
        fetched = len(issuer.asked)
        await until(lambda: len(issuer.asked) > fetched + 1)
        assert await outcome(authenticator, issuer.token("first", sub="b")) is None


async def test_a_bad_key_beside_a_good_one_does_no_harm(opened: Opener, issuer: Issuer) -> None:
    bad = [{}, {"kty": "EC"}, {"kty": "RSA", "n": "!", "e": "!"}, {"kty": "x" * 1000, "kid": 5}]
    issuer.answer = json.dumps({"keys": [*bad, *issuer.keys]}).encode()
    async with opened() as authenticator:
        assert await outcome(authenticator, issuer.token("first")) is None


async def test_a_redirect_is_not_followed(opened: Opener, issuer: Issuer) -> None:
    issuer.status = 302
    async with opened() as authenticator:
        assert await outcome(authenticator, issuer.token("first")) is Unavailable


async def test_a_password_is_not_logged(
    opened: Opener, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    url = issuer.url.replace("//", "//user:secret@")
    issuer.status = 500
    with caplog.at_level(logging.DEBUG, "control_plane"):
        async with opened(issuer=url, jwks_url=None) as authenticator:
            assert await outcome(authenticator, issuer.token("first")) is Unavailable
    assert caplog.records
    assert not any("secret" in record.getMessage() for record in caplog.records)


async def test_the_server_takes_tokens_and_never_fails(
    issuer: Issuer, values: dict[str, Any]
) -> None:
    async with gateway(auth=values) as http:

        async def post(token: str | None, **headers: str) -> Any:  # noqa: ANN401
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            return await http.post("/v1/completions", json={"prompt": "a"}, headers=headers)

        assert (await post(issuer.token("first"))).status_code == 200
        assert (await post(None, **{"X-API-Key": issuer.token("first")})).status_code == 200
        missing = await post(None)
        assert missing.status_code == 401
        assert missing.headers["WWW-Authenticate"] == 'Bearer realm="triad"'
        assert "Authorization: Bearer" in missing.json()["error"]["message"]
        expired = await post(issuer.token("first", exp=1))
        assert expired.status_code == 401
        assert expired.json()["error"]["message"] == "the token is not valid: it has expired"
        assert (await post(issuer.token("first", scope="other"))).status_code == 403
        assert (await post(issuer.token("first", scope="llm:admin"))).status_code == 403
    issuer.status = 500
    async with gateway(auth=values) as http:
        away = await post(issuer.token("first"))
        assert away.status_code == 503
        assert "its issuer's keys are not known" in away.json()["error"]["message"]
        assert away.headers["Retry-After"] == "1"
