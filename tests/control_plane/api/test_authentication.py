"""Who may call: keys of the store, and tokens that an OAuth 2 server vouches for."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from control_plane.auth.keys import KeyStore
from tests.conftest import ServerFactory
from tests.support.server import SCRIPTED, TriadServer, triad, triad_server
from tests.support.token_server import AUTHORIZATION, TokenServer, token_server

pytestmark = pytest.mark.process

SCOPE = "llm:generate"
BODY = {"prompt": json.dumps({"tokens": 3})}
PUBLIC = {"/health", "/health/live", "/health/ready", "/metrics"}

TOKENS = {
    "good": {"active": True, "scope": f"openid {SCOPE}", "sub": "ann"},
    "later": {"active": True, "scope": SCOPE, "sub": "bob", "exp": time.time() + 3600},
    "narrow": {"active": True, "scope": "openid", "sub": "ann"},
    "bare": {"active": True},
    "old": {"active": True, "scope": SCOPE, "exp": time.time() - 1},
    "ended": {"active": False, "scope": SCOPE},
    "odd": {"active": "yes", "scope": SCOPE},
    "list": {"active": True, "scope": [SCOPE]},
    "text": b"valid",
    "nothing": None,
}


@pytest.fixture(scope="module")
def tokens() -> Iterator[TokenServer]:
    with token_server(TOKENS) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(
    tokens: TokenServer, keys: KeyStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TriadServer]:
    """A server that takes keys of ``keys`` and tokens of ``tokens``, whose answers it keeps 1 s."""
    folder = tmp_path_factory.mktemp("guarded")
    environment = {
        "TRIAD_SERVING__AUTH__ENABLED": "true",
        "TRIAD_SERVING__AUTH__KEY_STORE": str(keys.file),
        "TRIAD_SERVING__AUTH__TOKEN_VALIDATION_URL": tokens.url,
        "TRIAD_SERVING__AUTH__TOKEN_VALIDATION_AUTHORIZATION": AUTHORIZATION,
        "TRIAD_SERVING__AUTH__TOKEN_VALIDATION_TIMEOUT": "1",
        "TRIAD_SERVING__AUTH__TOKEN_VALIDATION_CACHE": "1",
    }
    arguments = ("--model", str(SCRIPTED))
    with triad_server(folder / "log", *arguments, environment=environment) as running:
        yield running


@pytest.fixture(autouse=True)
def calm(tokens: TokenServer) -> Iterator[None]:
    yield
    tokens.status, tokens.delay = 200, 0.0


def ask(server: TriadServer, token: str | None, **headers: str) -> requests.Response:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return server.post("/generate", BODY, headers=headers)


def error(response: requests.Response) -> dict[str, Any]:
    body = response.json()
    assert response.headers["X-Request-Id"] == body["request_id"]
    found: dict[str, Any] = body["error"]
    assert found["code"] == response.status_code
    return found


def test_a_key_opens_every_way_of_asking(guarded: TriadServer, keys: KeyStore) -> None:
    key = keys.create("Ann", [SCOPE])
    assert ask(guarded, key).json()["text"] == "0 1 2 "
    stream = guarded.post(
        "/generate", BODY | {"stream": True}, headers={"Authorization": f"bearer {key}"}
    )
    assert '"final":true' in stream.text
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key) as client:
        assert client.completions.create(model="scripted", prompt=BODY["prompt"]).choices[0].text
        assert [model.id for model in client.models.list()] == ["scripted"]


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Basic YTpi", "triad_xyz", "Token good"]
)
def test_without_a_token(guarded: TriadServer, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    refused = guarded.post("/generate", BODY, headers=headers)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="triad"'
    assert "Authorization: Bearer <token>" in error(refused)["message"]
    assert error(refused)["type"] == "authentication_error"


@pytest.mark.parametrize("token", ["triad_" + "x" * 43, "ended", "old", "unknown", "ä", "a b"])
def test_a_token_that_is_not_valid(guarded: TriadServer, token: str) -> None:
    authorization = f"Bearer {token}".encode()
    refused = guarded.post("/generate", BODY, headers={"Authorization": authorization})
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="triad", error="invalid_token"'
    assert error(refused)["message"] == "the token is not valid"


def test_every_route_but_the_public_ones_needs_a_token(
    guarded: TriadServer, keys: KeyStore
) -> None:
    key = {"Authorization": f"Bearer {keys.create('Ann', [SCOPE])}"}
    documented = requests.get(f"{guarded.url}/openapi.json", headers=key, timeout=10).json()
    assert documented["paths"]["/generate"]["post"]["security"] == [{"HTTPBearer": []}]
    paths = {*documented["paths"], "/openapi.json", "/docs", "/nothing", "/health/"}
    assert {"/generate", "/chat", "/v1/chat/completions", "/v1/embeddings", "/stats"} <= paths
    for path in sorted(paths):
        for method in ("GET", "POST", "OPTIONS", "HEAD"):
            status = requests.request(method, guarded.url + path, timeout=10).status_code
            assert (status == 401) is (path not in PUBLIC), (method, path, status)


def test_a_body_is_not_read_without_a_token(guarded: TriadServer) -> None:
    """Nor waited for."""
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_a_revoked_key_ends_at_once(guarded: TriadServer, keys: KeyStore) -> None:
    key = keys.create("revoked", [SCOPE])
    assert ask(guarded, key).ok
    assert keys.revoke(next(k.id for k in keys.all() if k.name == "revoked"))
    assert ask(guarded, key).status_code == 401


def test_a_scope_that_is_missing_is_named(guarded: TriadServer, keys: KeyStore) -> None:
    for token in (keys.create("narrow", ["other"]), "narrow", "bare"):
        refused = ask(guarded, token)
        assert refused.status_code == 403
        assert SCOPE in error(refused)["message"]
        assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]


def test_tokens_of_another_server(guarded: TriadServer, tokens: TokenServer) -> None:
    assert ask(guarded, "good").ok
    assert ask(guarded, "later").ok
    assert tokens.authorizations == {AUTHORIZATION}


def test_its_answers_are_kept_for_a_while(guarded: TriadServer, tokens: TokenServer) -> None:
    tokens.tokens["kept"] = TOKENS["good"]
    tokens.delay = 0.3
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(lambda _: ask(guarded, "kept").ok, range(12)))
    assert tokens.asked.count("kept") == 1
    tokens.delay = 0
    del tokens.tokens["kept"]
    time.sleep(1.1)
    assert ask(guarded, "kept").status_code == 401


def test_a_token_is_not_kept_longer_than_it_is_valid(
    guarded: TriadServer, tokens: TokenServer
) -> None:
    tokens.tokens["short"] = {"active": True, "scope": SCOPE, "exp": time.time() + 0.5}
    assert ask(guarded, "short").ok
    time.sleep(0.6)
    assert ask(guarded, "short").status_code == 401


@pytest.mark.parametrize("token", ["odd", "list", "text", "nothing"])
def test_an_answer_that_says_nothing(guarded: TriadServer, token: str) -> None:
    refused = ask(guarded, token)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert error(refused)["message"] == "the token cannot be checked now"


def test_a_server_that_fails_lets_nobody_in(
    guarded: TriadServer, tokens: TokenServer, keys: KeyStore
) -> None:
    tokens.status = 500
    assert ask(guarded, "good-500").status_code == 503
    tokens.status, tokens.delay = 200, 10.0
    began = time.monotonic()
    assert ask(guarded, "good-slow").status_code == 503
    assert time.monotonic() - began < 9
    assert ask(guarded, keys.create("local", [SCOPE])).ok  # which need nobody else


def test_a_server_that_is_not_there_and_keys_in_a_header_of_their_own(
    start_server: ServerFactory, keys: KeyStore
) -> None:
    server = start_server(
        TRIAD_SERVING__AUTH__ENABLED="true",
        TRIAD_SERVING__AUTH__AUTH_TYPE="api_key",
        TRIAD_SERVING__AUTH__KEY_STORE=str(keys.file),
        TRIAD_SERVING__AUTH__TOKEN_VALIDATION_URL="http://127.0.0.1:9/",
        TRIAD_SERVING__AUTH__PUBLIC_PATHS="[/health/ready]",
        TRIAD_SERVING__AUTH__REQUIRED_SCOPES="[llm:generate, extra]",
    )
    key = keys.create("both", [SCOPE, "extra"])
    assert ask(server, None, **{"X-API-Key": key}).ok
    assert ask(server, key).ok  # the other header is taken as well
    assert ask(server, "worthless", **{"X-API-Key": key}).ok
    nothing = ask(server, None)
    assert nothing.status_code == 401
    assert nothing.headers["WWW-Authenticate"] == 'ApiKey realm="triad"'
    assert "X-API-Key" in error(nothing)["message"]
    assert ask(server, None, **{"X-API-Key": "good"}).status_code == 503
    assert ask(server, None, **{"X-API-Key": keys.create("one", [SCOPE])}).status_code == 403
    assert server.get("/health").status_code == 401
    assert server.get("/metrics").status_code == 401


def test_a_key_store_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 20)
    variables = {"AUTH__ENABLED": "true", "AUTH__KEY_STORE": str(tmp_path / "text")}
    done = triad("serve", **{f"TRIAD_SERVING__{key}": value for key, value in variables.items()})
    assert done.returncode == 1
    assert "serving.auth.key_store: " in done.stderr
