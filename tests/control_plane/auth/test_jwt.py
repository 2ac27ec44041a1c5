"""JSON Web Tokens: which of them are accepted, and which are not."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.datastructures import Headers

from control_plane.auth.authenticator import Authenticator, open_authenticator
from control_plane.auth.caller import Caller
from control_plane.auth.keys import KeyStore
from control_plane.errors import Forbidden, Unauthorized
from control_plane.settings import AuthSettings
from tests.support.issuer import AUDIENCE, Issuer, create_private_key, public_jwk, running_issuer

HOST = "192.0.2.1"
ALGORITHMS = [f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)]
ALGORITHMS.append("EdDSA")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        running.add_key("first")
        running.add_key("rsa", "RS256")
        yield running


def settings(issuer: Issuer, folder: Path, **values: Any) -> AuthSettings:  # noqa: ANN401
    given = {
        "enabled": True,
        "auth_type": "jwt",
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "jwks_url": issuer.jwks_url,
        "key_store": folder / "keys.db",
        "max_failures_per_minute": 10_000,
    }
    return AuthSettings.model_validate(given | values)


@pytest.fixture
async def authenticator(issuer: Issuer, tmp_path: Path) -> AsyncIterator[Authenticator]:
    async with open_authenticator(settings(issuer, tmp_path)) as opened:
        yield opened


async def ask(authenticator: Authenticator, token: str) -> Caller:
    return await authenticator.authenticate(Headers({"authorization": f"Bearer {token}"}), HOST)


async def refusal(authenticator: Authenticator, token: str) -> str:
    """Return why a token is refused; asked twice, since what was refused is not kept."""
    for _ in range(2):
        with pytest.raises(Unauthorized) as refused:
            await ask(authenticator, token)
    assert 'error="invalid_token"' in refused.value.headers["WWW-Authenticate"]
    assert refused.value.message.startswith("the token is not valid")
    return refused.value.message.removeprefix("the token is not valid").removeprefix(": ")


def encoded(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


async def test_a_token_has_a_caller(authenticator: Authenticator, issuer: Issuer) -> None:
    expires = int(time.time()) + 100
    token = issuer.token("first", scope="llm:generate other", exp=expires)
    caller = await ask(authenticator, token)
    assert (caller.scopes, caller.expires) == ({"llm:generate", "other"}, expires)
    assert (caller.models, caller.priority, caller.tokens_per_day) == (None, "normal", None)
    assert await ask(authenticator, token) is caller  # which is kept
    again = await ask(authenticator, issuer.token("rsa", exp=expires + 1))
    assert again.id == caller.id


async def test_who_it_is_is_no_secret(authenticator: Authenticator, issuer: Issuer) -> None:
    one = await ask(authenticator, issuer.token("first", email="ann@example.com"))
    other = await ask(authenticator, issuer.token("first", sub="bob"))
    service = await ask(authenticator, issuer.token("first", sub=None, client_id="robot"))
    assert len({one.id, other.id, service.id}) == 3
    for caller in (one, other, service):
        assert caller.id.startswith("jwt:")
        assert len(caller.id) == 36
        assert not any(name in caller.id for name in ("ann", "bob", "robot"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("says_algorithm", [False, True])
async def test_every_algorithm(algorithm: str, says_algorithm: bool, tmp_path: Path) -> None:
    with running_issuer() as issuer:
        issuer.add_key("a", algorithm, **({"alg": algorithm} if says_algorithm else {}))
        async with open_authenticator(settings(issuer, tmp_path, algorithms=[algorithm])) as opened:
            assert (await ask(opened, issuer.token("a"))).id.startswith("jwt:")
            claims = issuer.claims()
            forged = jwt.encode(claims, create_private_key(algorithm), algorithm, {"kid": "a"})
            assert await refusal(opened, forged) == "its signature is wrong"
        others = [other for other in ALGORITHMS if other != algorithm]
        async with open_authenticator(settings(issuer, tmp_path, algorithms=others)) as opened:
            reason = await refusal(opened, issuer.token("a"))
            assert reason == "it is signed with an algorithm that is not accepted"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": time.time() - 60}, "it has expired"),
        ({"nbf": time.time() + 86_400}, "it is not valid yet"),
        ({"iat": time.time() + 86_400}, "it is not valid yet"),
        ({"aud": "other"}, "it is for another audience"),
        ({"aud": ["other", "triadx"]}, "it is for another audience"),
        ({"aud": []}, "it lacks one of the claims"),
        ({"iss": "https://other.example"}, "it is from another issuer"),
        ({"exp": None}, "it lacks one of the claims"),
        ({"aud": None}, "it lacks one of the claims"),
        ({"iss": None}, "it lacks one of the claims"),
        ({"sub": None}, "it does not say whose it is"),
        ({"sub": None, "client_id": 5}, "it does not say whose it is"),
        ({"sub": ["ann"]}, "its claims have a wrong form"),
        ({"exp": "soon"}, "its claims have a wrong form"),
        ({"exp": True}, "it has expired"),
        ({"exp": [4e9]}, "its claims have a wrong form"),
        ({"exp": {}}, "its claims have a wrong form"),
        ({"exp": float("inf")}, "its claims have a wrong form"),
        ({"exp": float("nan")}, "its claims have a wrong form"),
        ({"exp": "4000000000"}, "its claim `exp` is no number"),
        ({"nbf": float("inf")}, "its claims have a wrong form"),
        ({"iss": ["a"]}, "it is from another issuer"),
        ({"aud": {"triad": 1}}, "it is for another audience"),
        ({"scope": 5}, "its claim `scope` or `scp`"),
        ({"scope": ["a", 5]}, "its claim `scope` or `scp`"),
    ],
)
async def test_claims_that_are_wrong(
    authenticator: Authenticator, issuer: Issuer, changes: Mapping[str, Any], reason: str
) -> None:
    got = await refusal(authenticator, issuer.token("first", **changes))
    assert got.startswith(reason)


async def test_clocks_may_differ_a_little(issuer: Issuer, tmp_path: Path) -> None:
    now = time.time()
    changes: list[dict[str, Any]] = [{"exp": now - 5}, {"nbf": now + 5}, {"iat": now + 5}]
    async with open_authenticator(settings(issuer, tmp_path, leeway=30)) as opened:
        for change in changes:
            await ask(opened, issuer.token("first", **change))
    async with open_authenticator(settings(issuer, tmp_path, leeway=0)) as opened:
        for change in changes:
            await refusal(opened, issuer.token("first", **change))


async def test_a_token_that_is_kept_expires(issuer: Issuer, tmp_path: Path) -> None:
    async with open_authenticator(settings(issuer, tmp_path, leeway=0)) as opened:
        expires = int(time.time()) + 2
        token = issuer.token("first", exp=expires)
        await ask(opened, token)
        await ask(opened, token)
        await asyncio.sleep(expires - time.time() + 0.05)
        assert await refusal(opened, token) == "it has expired"


@pytest.mark.parametrize("far", [1e300, 10**400])
async def test_a_token_may_last_for_ever(
    authenticator: Authenticator, issuer: Issuer, far: float
) -> None:
    caller = await ask(authenticator, issuer.token("first", exp=far))
    assert caller.expires == 1e15


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "llm:generate  b"}, {"llm:generate", "b"}),
        ({"scope": ["llm:generate", "b"]}, {"llm:generate", "b"}),
        ({"scope": None, "scp": "llm:generate b"}, {"llm:generate", "b"}),
        ({"scope": None, "scp": ["llm:generate", "b"]}, {"llm:generate", "b"}),
        ({"scope": "llm:generate", "scp": "b"}, {"llm:generate"}),
    ],
)
async def test_scopes(
    authenticator: Authenticator, issuer: Issuer, claims: Mapping[str, Any], scopes: set[str]
) -> None:
    caller = await ask(authenticator, issuer.token("first", **claims))
    assert caller.scopes == scopes


@pytest.mark.parametrize("scope", [None, "", "other", "llm:generate:all", []])
async def test_a_scope_that_is_missing(
    authenticator: Authenticator, issuer: Issuer, scope: object
) -> None:
    with pytest.raises(Forbidden, match="lacks the scope `llm:generate`"):
        await ask(authenticator, issuer.token("first", scope=scope))


async def test_no_algorithm_is_no_signature(authenticator: Authenticator, issuer: Issuer) -> None:
    for name in ("none", "None", "NONE", "", None, 5, ["ES256"]):
        header = encoded({"alg": name, "kid": "first"})
        for signature in ("", encoded(b"x" * 64)):
            token = f"{header}.{encoded(issuer.claims())}.{signature}"
            reason = await refusal(authenticator, token)
            assert reason in (
                "it is signed with an algorithm that is not accepted",
                "it is no JSON Web Token",
            )


async def test_a_public_key_is_no_shared_secret(
    authenticator: Authenticator, issuer: Issuer
) -> None:
    """Anybody has the public key, and could sign with it as a secret."""
    key, _ = issuer.private["rsa"]
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    jwk = json.dumps(issuer.keys[1]).encode()
    for secret in (public, public.strip(), jwk):
        for algorithm in ("HS256", "HS384", "HS512"):
            header = encoded({"alg": algorithm, "kid": "rsa", "typ": "JWT"})
            signed = f"{header}.{encoded(issuer.claims())}"
            digest = jwt.algorithms.get_default_algorithms()[algorithm]
            signature = encoded(digest.sign(signed.encode(), secret))
            reason = await refusal(authenticator, f"{signed}.{signature}")
            assert reason == "it is signed with an algorithm that is not accepted"


async def test_a_symmetric_key_in_the_set_is_no_key(tmp_path: Path) -> None:
    with running_issuer() as issuer:
        issuer.add_key("good")
        secret = b"s" * 64
        issuer.keys.append({"kty": "oct", "kid": "oct", "k": encoded(secret), "alg": "HS256"})
        issuer.keys.append({"kty": "oct", "kid": "es", "k": encoded(secret), "alg": "ES256"})
        async with open_authenticator(settings(issuer, tmp_path)) as opened:
            await ask(opened, issuer.token("good"))
            token = jwt.encode(issuer.claims(), secret, "HS256", {"kid": "oct"})
            assert "algorithm" in await refusal(opened, token)
            forged = issuer.token("good", header={"kid": "es"})
            assert "a key that its issuer does not have" in await refusal(opened, forged)


async def test_a_key_is_for_one_algorithm(tmp_path: Path) -> None:
    """That which it says, or which its type and curve allow: a token cannot choose another."""
    with running_issuer() as issuer:
        key = issuer.add_key("says", "RS256", alg="RS256")
        curve = issuer.add_key("curve", "ES256")
        both = ["RS256", "RS512", "ES256", "ES384"]
        async with open_authenticator(settings(issuer, tmp_path, algorithms=both)) as opened:
            await ask(opened, issuer.token("says"))
            other = jwt.encode(issuer.claims(), key, "RS512", {"kid": "says"})
            assert "a key that its issuer does not have" in await refusal(opened, other)
            crossed = jwt.encode(issuer.claims(), key, "RS256", {"kid": "curve"})
            assert "a key that its issuer does not have" in await refusal(opened, crossed)
            header = encoded({"alg": "ES384", "kid": "curve"})
            del curve
            wrong = f"{header}.{encoded(issuer.claims())}.{encoded(b'x' * 96)}"
            assert "a key that its issuer does not have" in await refusal(opened, wrong)


@pytest.mark.parametrize(
    "fields",
    [
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"alg": "RSA-OAEP"},
        {"kty": "EC"},
        {"n": "AQAB"},
        {"n": 5},
        {"crv": ["P-256"], "kty": "EC"},
    ],
)
async def test_keys_that_are_not_for_verifying_are_left_out(
    tmp_path: Path, fields: Mapping[str, Any]
) -> None:
    with running_issuer() as issuer:
        issuer.add_key("good")
        issuer.add_key("other", "RS256", **fields)
        async with open_authenticator(settings(issuer, tmp_path)) as opened:
            await ask(opened, issuer.token("good"))
            assert "does not have" in await refusal(opened, issuer.token("other"))


async def test_a_short_rsa_key_is_left_out(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    with running_issuer() as issuer:
        issuer.add_key("good")
        short = rsa.generate_private_key(65537, 1024)
        issuer.keys.append(public_jwk(short, kid="short"))
        async with open_authenticator(settings(issuer, tmp_path)) as opened:
            await ask(opened, issuer.token("good"))
            with pytest.warns(jwt.InsecureKeyLengthWarning):
                token = jwt.encode(issuer.claims(), short, "RS256", {"kid": "short"})
            assert "does not have" in await refusal(opened, token)


async def test_a_token_that_names_no_key(tmp_path: Path) -> None:
    """It is verified with the issuer's only key for its algorithm."""
    with running_issuer() as issuer:
        key = issuer.add_key("one", "ES256")
        issuer.add_key("two", "RS256")
        token = jwt.encode(issuer.claims(), key, "ES256")
        async with open_authenticator(settings(issuer, tmp_path)) as opened:
            await ask(opened, token)
        issuer.add_key("three", "ES256")
        async with open_authenticator(settings(issuer, tmp_path)) as opened:
            assert await refusal(opened, token) == (
                "it names no key (`kid`), and its issuer has several"
            )


async def test_keys_with_one_id(tmp_path: Path) -> None:
    with running_issuer() as issuer:
        keys = [issuer.add_key("same") for _ in range(3)]
        async with open_authenticator(settings(issuer, tmp_path)) as opened:
            for key in keys:
                await ask(opened, jwt.encode(issuer.claims(), key, "ES256", {"kid": "same"}))
            forged = jwt.encode(
                issuer.claims(), create_private_key("ES256"), "ES256", {"kid": "same"}
            )
            assert await refusal(opened, forged) == "its signature is wrong"
            late = jwt.encode(issuer.claims(exp=1), keys[1], "ES256", {"kid": "same"})
            assert await refusal(opened, late) == "it has expired"


async def test_what_was_changed_is_not_signed(authenticator: Authenticator, issuer: Issuer) -> None:
    header, _, signature = issuer.token("first").split(".")
    changed = f"{header}.{encoded(issuer.claims(sub='root'))}.{signature}"
    assert await refusal(authenticator, changed) == "its signature is wrong"
    header = encoded({"alg": "ES256", "kid": "first", "x": 1})
    token = issuer.token("first")
    assert await refusal(authenticator, f"{header}.{token.partition('.')[2]}") == (
        "its signature is wrong"
    )


@pytest.mark.parametrize("extension", [{"crit": ["exp"]}, {"crit": []}, {"b64": True}])
async def test_extensions_are_not_known(
    authenticator: Authenticator, issuer: Issuer, extension: Mapping[str, Any]
) -> None:
    header = encoded({"alg": "ES256", "kid": "first"} | dict(extension))
    token = f"{header}.{encoded(issuer.claims())}.{encoded(b'x' * 64)}"
    reason = await refusal(authenticator, token)
    assert reason in ("its header has extensions", "it is no JSON Web Token")


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "..",
        "a.b.c",
        "a.b.c.d.e",
        encoded({"alg": "ES256"}),
        f"{encoded({'alg': 'ES256', 'kid': 'first'})}..",
        f"{encoded([])}.{encoded({})}.x",
        f"{encoded({'alg': 'ES256', 'kid': 5})}.{encoded({})}.{encoded(b'x' * 64)}",
        f"{encoded({'alg': 'ES256', 'kid': {}})}.{encoded({})}.{encoded(b'x' * 64)}",
        f"{encoded(b'[' * 5000)}.{encoded({})}.{encoded(b'x' * 64)}",
        "_v8." + encoded({}) + "." + encoded(b"x" * 64),
        "\xe4\xf6.\xfc.\xdf",
        "é" * 3,
    ],
)
async def test_what_is_no_token(authenticator: Authenticator, token: str) -> None:
    await refusal(authenticator, token)


async def test_a_payload_that_is_no_object(authenticator: Authenticator, issuer: Issuer) -> None:
    """It is signed all the same."""
    key, _ = issuer.private["first"]
    for payload in (b"[]", b"5", b"{", b"[" * 3000, b"\xff", b""):
        token = jwt.PyJWS().encode(payload, key, "ES256", {"kid": "first"})
        await refusal(authenticator, token)


async def test_a_long_token_is_not_read(authenticator: Authenticator, issuer: Issuer) -> None:
    token = issuer.token("first", padding="x" * 9000)
    assert await refusal(authenticator, token) == "it has more than 8192 characters"


async def test_keys_of_ours_are_accepted_beside(
    authenticator: Authenticator, issuer: Issuer, tmp_path: Path
) -> None:
    store = KeyStore(tmp_path / "keys.db")
    secret = store.create("one", ["llm:generate"])
    id_ = store.all()[0].id
    caller = await ask(authenticator, secret)
    assert caller.id == f"key:{id_}"
    store.revoke(id_)
    store.close()
    assert await refusal(authenticator, secret) == ""
