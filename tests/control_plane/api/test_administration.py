"""The scopes for models and for the server itself, which are apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest

from control_plane.api.admin import AdminDep
from control_plane.app import create_app
from control_plane.auth.keys import KeyStore
from control_plane.auth.scopes import ADMIN, GENERATE, is_administrative
from control_plane.inference.requests import Profile, Tokenize
from control_plane.inference.responses import Tokens
from control_plane.settings import AuthSettings
from tests.support.gateway import fake_client, in_process, settings

SCOPES = {"generate": [GENERATE], "admin": [ADMIN], "both": [GENERATE, ADMIN], "neither": ["other"]}


@pytest.fixture
def secrets(tmp_path: Path) -> Mapping[str, str]:
    store = KeyStore(tmp_path / "keys.db")
    made = {name: store.create(name, scopes) for name, scopes in SCOPES.items()}
    store.close()
    return made


async def ask(http: httpx2.AsyncClient, path: str, secret: str | None) -> httpx2.Response:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    return await http.post(path, json={"prompt": "a"}, headers=headers)


def test_the_default_scope_is_that_for_models() -> None:
    assert AuthSettings().required_scopes == [GENERATE]


def test_which_paths_are_administrative() -> None:
    for path in ("/admin", "/admin/", "/admin/reload", "/admin/a/b", "/profile", "/profile/"):
        assert is_administrative(path), path
    for path in ("/", "/generate", "/administrators", "/v1/admin", "/profiles", "/models/admin"):
        assert not is_administrative(path), path


async def test_each_scope_opens_its_own_routes(secrets: Mapping[str, str], tmp_path: Path) -> None:
    auth = {"enabled": True, "key_store": str(tmp_path / "keys.db")}
    client = fake_client()
    client.on(Tokenize, lambda _: [Tokens([1], ["a"], ["a"])])
    client.on(Profile, lambda _: [b"a trace"])
    app = create_app(settings(auth=auth, profiling=True), client=client)

    @app.post("/admin/reload")
    async def reload(caller: AdminDep) -> str:
        return caller.id

    statuses = {}
    async with in_process(app) as http:
        for path in ("/generate", "/admin/reload", "/admin/nothing", "/profile"):
            for name, secret in secrets.items():
                statuses[path, name] = (await ask(http, path, secret)).status_code
            assert (await ask(http, path, None)).status_code == 401
        refused = await ask(http, "/admin/reload", secrets["generate"])
    for path in ("/admin/reload", "/profile"):
        assert [statuses[path, name] for name in SCOPES] == [403, 200, 200, 403], path
    assert [statuses["/admin/nothing", name] for name in SCOPES] == [403, 404, 404, 403]
    assert [statuses["/generate", name] for name in SCOPES] == [200, 403, 200, 403]
    assert "lacks the scope `llm:admin`" in refused.json()["error"]["message"]
    assert 'scope="llm:admin"' in refused.headers["WWW-Authenticate"]


async def test_a_public_path_opens_no_administrative_route(
    secrets: Mapping[str, str], tmp_path: Path
) -> None:
    paths = ["/admin/reload", "/elsewhere"]
    auth = {"enabled": True, "key_store": str(tmp_path / "keys.db"), "public_paths": paths}
    app = create_app(settings(auth=auth), client=fake_client())
    for path in paths:

        @app.post(path)
        async def reload(caller: AdminDep) -> str:
            return caller.id

    async with in_process(app) as http:
        for path in paths:
            assert (await ask(http, path, secrets["both"])).status_code == 403


async def test_without_authentication_nobody_administers() -> None:
    app = create_app(settings(), client=fake_client())

    @app.post("/admin/reload")
    async def reload(caller: AdminDep) -> str:
        return caller.id

    async with in_process(app) as http:
        refused = await ask(http, "/admin/reload", None)
        assert refused.status_code == 403
        assert "set `auth.enabled`" in refused.json()["error"]["message"]


async def test_a_route_elsewhere_can_ask_for_the_scope_too(
    secrets: Mapping[str, str], tmp_path: Path
) -> None:
    auth = {"enabled": True, "key_store": str(tmp_path / "keys.db")}
    app = create_app(settings(auth=auth), client=fake_client())

    @app.post("/elsewhere")
    async def elsewhere(caller: AdminDep) -> str:
        return caller.id

    async with in_process(app) as http:
        statuses = [(await ask(http, "/elsewhere", s)).status_code for s in secrets.values()]
    assert statuses == [403, 403, 200, 403]
