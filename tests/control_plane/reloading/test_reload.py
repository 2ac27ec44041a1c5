"""Other settings for a server that runs, asked for over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from control_plane.auth.keys import KeyStore
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.settings import ServingSettings
from tests.support.asgi import AsgiCall
from tests.support.gateway import fake_client, steps, until
from tests.support.reloadable import Reloadable, reloadable
from tests.support.triton_in_process import Triton, listening

pytestmark = pytest.mark.asyncio

NOTHING: dict[str, list[str]] = {"applied": [], "needs_restart": []}


async def ask(
    server: Reloadable,
    prompt: str = "Hi",
    **headers: str,
) -> httpx2.Response:
    return await server.http.post("/generate", json={"prompt": prompt}, headers=headers)


class Slow(FakeModelClient):
    """A model that answers with two deltas, the second when ``end`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.add_model("demo")
        self.end = asyncio.Event()
        deltas = (Delta("one", 1, prompt_tokens=1), Delta(" two", 1, "stop", prompt_tokens=1))
        self.on(Generate, lambda _: steps(deltas[0], self.end, deltas[1]))


async def test_without_a_change_nothing_is_done(tmp_path: Path) -> None:
    async with reloadable(tmp_path, fake_client()) as server:
        before = server.gateway.state.services
        response = await server.reload()
        assert (response.status_code, response.json()) == (200, NOTHING)
        assert server.gateway.state.services is before


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"validation": {"max_prompt_length": 1}}, "serving.validation.max_prompt_length"),
        (
            {"validation": {"content_filtering": True, "content_filters": {"greeting": "Hi"}}},
            "serving.validation.content_filters",
        ),
        ({"max_body_size": 5}, "serving.max_body_size"),
        ({"auth": {"enabled": True, "key_store": "keys.db"}}, "serving.auth.enabled"),
        (
            {"rate_limiting": {"enabled": True, "tokens_per_minute": 1}},
            "serving.rate_limiting.enabled",
        ),
    ],
)
async def test_limits_hold_from_the_next_request_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    async with reloadable(tmp_path, fake_client()) as server:
        assert (await ask(server)).status_code == 200
        response = await server.reload(**values)
        assert key in response.json()["applied"]
        assert response.json()["needs_restart"] == []
        refused = await asyncio.gather(*(ask(server) for _ in range(3)))
        assert {400, 401, 413, 429} & {response.status_code for response in refused}


async def test_a_key_that_needs_a_restart_is_named_and_keeps_its_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloadable(tmp_path, fake_client()) as server:
        values = {"port": 60_000, "pytorch": {"spin_count": 7}, "request_timeout": 3.0}
        with caplog.at_level("INFO"):
            response = await server.reload(**values)
        port, spin_count = "serving.port", "serving.pytorch.spin_count"
        wanted = {"applied": ["serving.request_timeout"], "needs_restart": [spin_count, port]}
        assert {k: set(v) for k, v in response.json().items()} == {
            k: set(v) for k, v in wanted.items()
        }
        running = server.gateway.state.services.settings
        assert (running.port, running.request_timeout) == (server.defaults["port"], 3.0)
        assert "serving.request_timeout: applied" in caplog.text
        assert "serving.port: needs a restart" in caplog.text
        again = (await server.http.post("/admin/reload")).json()
        assert (again["applied"], set(again["needs_restart"])) == ([], {port, spin_count})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("serving: {prot: 1}", "serving.prot: unknown key"),
        ("serving: [", "not valid YAML"),
        ("serving: {workers: 2, reload: true}", "serving.reload: is for a single worker"),
        ("serving: {auth: {enabled: true, key_store: /dev/null/keys}}", "serving.auth.key_store: "),
        (
            "serving: {caching: {enabled: true, cache_type: disk, folder: /dev/null/a}}",
            "serving.caching.folder: ",
        ),
    ],
)
async def test_settings_that_cannot_be_used_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, says: str
) -> None:
    async with reloadable(tmp_path, fake_client()) as server:
        before = server.gateway.state.services
        server.file.write_text(text)
        response = await server.http.post("/admin/reload")
        assert response.status_code == 409
        assert response.json()["error"]["type"] == "settings_refused"
        assert says in response.json()["error"]["message"]
        assert says in caplog.text
        assert server.gateway.state.services is before
        assert (await ask(server)).status_code == 200


async def test_an_application_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    """It has an address that cannot be asked with, which is seen when it is opened."""
    client = fake_client()
    async with reloadable(tmp_path, client) as server:
        before = server.gateway.state.services
        auth = {"enabled": True, "key_store": str(tmp_path / "keys.db")}
        broken = auth | {"token_validation_authorization": "Bearer \u20ac"}
        url = {"token_validation_url": "http://127.0.0.1:1/introspect"}
        response = await server.reload(auth=broken | url)
        assert response.status_code == 409
        assert "cannot be applied" in response.json()["error"]["message"]
        assert server.gateway.state.services is before
        assert (await ask(server)).status_code == 200


async def test_what_runs_keeps_the_settings_that_it_began_with(tmp_path: Path) -> None:
    client = Slow()
    async with reloadable(tmp_path, client) as server:
        call = AsgiCall(server.gateway, "/generate", {"prompt": "Hi", "stream": True})
        await call.until(b"one")
        former = server.gateway.state.services
        response = await server.reload(validation={"max_tokens": 1})
        assert response.json()["applied"] == ["serving.validation.max_tokens"]
        assert server.gateway.state.services is not former
        assert (await ask(server)).status_code == 400
        assert former.generation.running == 1
        client.end.set()
        await call.end()
        assert b" two" in call.body and call.whole
        await until(lambda: not server.gateway._retiring)
        assert client.closed


async def test_counters_go_on(tmp_path: Path) -> None:
    async with reloadable(tmp_path, fake_client()) as server:
        await ask(server)
        await server.reload(request_timeout=3.0, caching={"enabled": True, "cache_type": "memory"})
        await ask(server)
        await server.reload(request_timeout=4.0, caching={"enabled": True, "cache_type": "memory"})
        await ask(server)
        stats = (await server.http.get("/stats")).json()
        assert stats["request_count"] == 3
        metrics = (await server.http.get("/metrics")).text
        assert metrics.count('triad_model_ready{model="demo"} 1.0') == 1
        assert 'triad_alert_firing{alert="error_rate"} 0.0' in metrics


async def test_a_server_that_is_removed_finishes_what_it_has(tmp_path: Path) -> None:
    first, second = Triton(), Triton()
    for triton in (first, second):
        triton.configs["demo"] = {}
    with listening(first) as a, listening(second) as b:
        async with reloadable(tmp_path, triton={"endpoints": [a]}) as server:
            assert (await ask(server)).status_code == 200
            response = await server.reload(triton={"endpoints": [a, b]})
            assert response.json()["applied"] == ["serving.triton.endpoints"]
            endpoints = [i.endpoint for i in server.gateway.state.services.instances]
            assert endpoints == [a, b]
            assert all([(await ask(server)).is_success for _ in range(4)])
            response = await server.reload(triton={"endpoints": [b]})
            assert response.status_code == 200
            first.configs.clear()
            assert (await ask(server)).json()["text"] == "Hello world"


async def test_servers_without_the_model_are_refused(tmp_path: Path) -> None:
    triton = Triton()
    triton.configs["demo"] = {}
    with listening(triton) as endpoint, listening(Triton()) as empty:
        async with reloadable(tmp_path, triton={"endpoints": [endpoint]}) as server:
            response = await server.reload(triton={"endpoints": [empty]})
            assert response.status_code == 409
            message = response.json()["error"]["message"]
            assert message == "no server that the settings name has the default model ready"
            assert (await ask(server)).status_code == 200
            metrics = (await server.http.get("/metrics")).text
            assert 'triad_model_ready{model="demo"} 1.0' in metrics


async def test_an_embedded_server_stays_the_server(tmp_path: Path) -> None:
    triton = Triton()
    triton.configs["demo"] = {}
    with listening(triton) as endpoint:

        def connected(settings: ServingSettings) -> ServingSettings:
            settings = settings.model_copy(deep=True)
            settings.triton.endpoints = [endpoint]
            return settings

        async with reloadable(tmp_path, connected=connected) as server:
            response = await server.reload(
                triton={"endpoints": ["elsewhere:8001"], "health_check_timeout": 4.0},
                models=["another"],
            )
            assert response.json() == {
                "applied": ["serving.triton.health_check_timeout"],
                "needs_restart": ["serving.models", "serving.triton.endpoints"],
            }
            assert (await ask(server)).status_code == 200


async def test_no_request_sees_a_mix(tmp_path: Path) -> None:
    """Two settings change together; each request is refused for one reason alone."""
    odd: dict[str, Any] = {"validation": {"max_prompt_length": 1}, "max_body_size": "1MB"}
    even: dict[str, Any] = {"validation": {"max_prompt_length": 1000}, "max_body_size": 10}
    statuses: set[int] = set()
    async with reloadable(tmp_path, fake_client(), **odd) as server:
        done = asyncio.Event()

        async def keep_asking() -> None:
            while not done.is_set():
                statuses.add((await ask(server, "x" * 20)).status_code)
                await asyncio.sleep(0.001)

        asking = [asyncio.ensure_future(keep_asking()) for _ in range(4)]
        for number in range(3):
            response = await server.reload(**(odd if number % 2 else even))
            assert len(response.json()["applied"]) == 2
        done.set()
        await asyncio.gather(*asking)
    assert statuses == {400, 413}


async def test_two_reloads_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    async with reloadable(tmp_path, fake_client()) as server:
        server.write(request_timeout=2.0)
        both = await asyncio.gather(
            *(server.http.post("/admin/reload") for _ in range(2)),
        )
        applied = [response.json()["applied"] for response in both]
        assert sorted(applied) == [[], ["serving.request_timeout"]]


async def test_a_key_with_the_scope_is_needed_where_authentication_is_on(tmp_path: Path) -> None:
    file = tmp_path / "keys.db"
    store = KeyStore(file)
    user = store.create("user", ["llm:generate"])
    admin = store.create("admin", ["llm:generate", "llm:admin"])
    store.close()
    async with reloadable(
        tmp_path, fake_client(), auth={"enabled": True, "key_store": str(file)}
    ) as server:
        for path, method in (("/admin/reload", "POST"), ("/admin/settings", "GET")):
            assert (await server.http.request(method, path)).status_code == 401
            refused = await server.http.request(method, path, headers={"X-API-Key": user})
            assert refused.status_code == 403
            assert "llm:admin" in refused.json()["error"]["message"]
            given = await server.http.request(method, path, headers={"X-API-Key": admin})
            assert given.status_code == 200


async def test_a_public_path_does_not_open_it(tmp_path: Path) -> None:
    auth = {"enabled": True, "public_paths": ["/admin/reload"], "key_store": str(tmp_path / "k")}
    async with reloadable(tmp_path, fake_client(), auth=auth) as server:
        assert (await server.http.post("/admin/reload")).status_code == 403


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {"host": "[::1]:8000"}, 200),
        ("127.0.0.1", {"host": "localhost:8000"}, 200),
        ("192.0.2.1", {}, 403),
        ("192.0.2.1", {"x-forwarded-for": "127.0.0.1"}, 403),
        ("127.0.0.1", {"x-forwarded-for": "192.0.2.1"}, 403),
        ("127.0.0.1", {"origin": "http://evil.example"}, 403),
        ("127.0.0.1", {"host": "evil.example"}, 403),
    ],
)
async def test_without_authentication_it_is_for_the_servers_own_machine(
    tmp_path: Path, client: str, headers: dict[str, str], status: int
) -> None:
    async with reloadable(tmp_path, fake_client()) as server:
        transport = httpx2.ASGITransport(server.gateway, client=(client, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            for path, method in (("/admin/reload", "POST"), ("/admin/settings", "GET")):
                assert (await http.request(method, path, headers=headers)).status_code == status


async def test_a_proxys_word_is_taken_where_it_is_trusted(tmp_path: Path) -> None:
    """Its client is another machine's, though the proxy is on this one."""
    async with reloadable(tmp_path, fake_client(), trusted_proxies=["127.0.0.1"]) as server:
        headers = {"x-forwarded-for": "192.0.2.1"}
        assert (await server.http.post("/admin/reload", headers=headers)).status_code == 403
