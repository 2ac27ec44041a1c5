"""Which class a request gets, and what it is told of its engine's queue."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from backends.contract.scheduling import Priority
from control_plane.auth.caller import PriorityClass
from control_plane.auth.keys import KeyStore, Policy
from control_plane.errors import Overloaded
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from tests.support.gateway import events, fake_client, gateway, sent

CHAT = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "Hi", "max_tokens": 3},
    "/chat": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
    CHAT: {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"model": "demo", "prompt": "Hi"},
}


@pytest.fixture
def client() -> FakeModelClient:
    return fake_client()


def last(client: FakeModelClient) -> Generate:
    request = sent(client)[-1]
    assert isinstance(request, Generate)
    return request


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyStore]:
    with closing(KeyStore(tmp_path_factory.mktemp("keys") / "keys.db")) as store:
        yield store


def as_caller(keys: KeyStore, priority: PriorityClass | None) -> dict[str, str]:
    secret = keys.create("a", ["llm:generate"], policy=Policy(priority=priority))
    return {"Authorization": f"Bearer {secret}"}


def auth(keys: KeyStore) -> dict[str, Any]:
    return {"enabled": True, "key_store": str(keys.file)}


@pytest.mark.parametrize("route", BODIES)
async def test_a_request_has_the_class_of_its_key(
    route: str, keys: KeyStore, client: FakeModelClient
) -> None:
    async with gateway(client, auth=auth(keys)) as http:
        for priority in (None, *Priority):
            headers = as_caller(keys, None if priority is None else priority.value)
            response = await http.post(route, json=BODIES[route], headers=headers)
            assert response.status_code == 200
            assert last(client).scheduling.priority is (priority or Priority.NORMAL)
            assert "x-triad-priority" not in response.headers


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize(
    ("asked", "allowed", "given"),
    [
        ("high", "high", "high"),
        ("high", None, "normal"),
        ("low", "high", "low"),
        (-5, "high", "high"),
        (0, "high", "normal"),
        (7, None, "low"),
        ("normal", "low", "low"),
    ],
)
async def test_a_request_may_ask_for_a_lower_class(
    route: str,
    asked: str | int,
    allowed: PriorityClass | None,
    given: str,
    keys: KeyStore,
    client: FakeModelClient,
) -> None:
    async with gateway(client, auth=auth(keys)) as http:
        body = BODIES[route] | {"priority": asked}
        response = await http.post(route, json=body, headers=as_caller(keys, allowed))
    assert response.headers["x-triad-priority"] == given
    assert last(client).scheduling.priority == given


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("tier", "given"), [("auto", "priority"), ("default", "default"), ("flex", "flex")]
)
async def test_the_response_names_the_tier_that_it_got(
    tier: str, given: str, stream: bool, keys: KeyStore, client: FakeModelClient
) -> None:
    body = BODIES[CHAT] | {"service_tier": tier, "stream": stream}
    async with gateway(client, auth=auth(keys)) as http:
        response = await http.post(CHAT, json=body, headers=as_caller(keys, "high"))
        answers = events(response)[:-1] if stream else [response.json()]
        assert [answer["service_tier"] for answer in answers] == [given] * len(answers)
        low = await http.post(
            CHAT, json=BODIES[CHAT] | {"service_tier": "priority"}, headers=as_caller(keys, "low")
        )
        assert low.json()["service_tier"] == "flex"


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("value", ["urgent", 1.5, [], True])
async def test_a_class_that_is_none_is_refused(route: str, value: object) -> None:
    async with gateway() as http:
        response = await http.post(route, json=BODIES[route] | {"priority": value})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("priority")


async def test_callers_are_told_apart_by_a_hash(keys: KeyStore, client: FakeModelClient) -> None:
    async with gateway(client, auth=auth(keys)) as http:
        hashes = []
        for headers in [as_caller(keys, None), as_caller(keys, None)] * 2:
            await http.post("/generate", json=BODIES["/generate"], headers=headers)
            hashes.append(last(client).scheduling.caller)
    assert hashes[:2] == hashes[2:] and hashes[0] != hashes[1]
    assert not any(key.id in hashed for key in keys.all() for hashed in hashes)


async def test_a_model_gets_the_times_that_are_set(client: FakeModelClient) -> None:
    times = {"request_timeout": 30.0, "first_token_timeout": 2.0}
    async with gateway(client, **times) as http:
        await http.post("/generate", json=BODIES["/generate"])
    scheduling = last(client).scheduling
    assert (scheduling.first_token_timeout, scheduling.timeout) == (2.0, 30.0)
    async with gateway(client, request_timeout=30.0) as http:
        await http.post("/generate", json=BODIES["/generate"])
    assert last(client).scheduling.first_token_timeout == 30.0 != math.inf


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_wait_in_the_queue_is_told(
    route: str, stream: bool, client: FakeModelClient
) -> None:
    client.on(
        Generate,
        lambda request: [Delta("Hi", 1, "stop", prompt_tokens=1, queue_depth=3, queue_wait=0.25)],
    )
    async with gateway(client) as http:
        response = await http.post(route, json=BODIES[route] | {"stream": stream})
        assert response.headers["x-triad-queue-depth"] == "3"
        assert response.headers["x-triad-queue-wait-ms"] == "250"
        metrics = (await http.get("/metrics")).text
        assert 'triad_queue_wait_seconds_sum{model="demo"} 0.25' in metrics
        assert (await http.get("/stats")).json()["avg_queue_wait"] == 0.25


async def test_the_depth_of_the_queues_is_in_the_statistics() -> None:
    async with gateway(fake_client(waiting=4)) as http:
        assert (await http.get("/stats")).json()["queue_depth"] == 4


@pytest.mark.parametrize("route", BODIES)
async def test_a_full_queue_says_when_to_come_again(route: str, client: FakeModelClient) -> None:
    client.on(Generate, lambda request: [Overloaded("full", retry_after=2.5)])
    async with gateway(client) as http:
        response = await http.post(route, json=BODIES[route])
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"
    assert response.headers["retry-after-ms"] == "2500"
