"""Requests that share a generation, and what stays each one's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from control_plane.cluster.catalog import ClusterCatalog
from control_plane.cluster.instance import Instance
from control_plane.errors import ClientDisconnected, DeadlineExceeded
from control_plane.generation.generation import Generation
from control_plane.generation.result import collect
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.models.catalog import Catalog
from control_plane.models.permitted import PermittedModels
from control_plane.services import Services
from tests.control_plane.generation.test_service import Ledger, request, services
from tests.support.gateway import fake_client, gateway, sent, steps

GREEDY = {"max_tokens": 5, "temperature": 0}
PARTS = [Delta("a", 1, prompt_tokens=3), Delta("b", 1, prompt_tokens=3)]
END = Delta("c", 1, "stop", prompt_tokens=3)


@asynccontextmanager
async def sharing(
    **values: Any,  # noqa: ANN401
) -> AsyncIterator[tuple[Services, FakeModelClient, asyncio.Event]]:
    """A cache over a model whose answers wait, before their last delta, for an event."""
    go_on, client = asyncio.Event(), fake_client()
    client.on(Generate, lambda _: steps(*PARTS, go_on, END))
    caching = {"enabled": True, "cache_type": "memory"} | values.pop("caching", {})
    async with services(client, caching=caching, **values) as opened:
        yield opened, client, go_on


async def start(opened: Services, **values: Any) -> Generation:  # noqa: ANN401
    asked = request(**{"sampling": GREEDY, "stream": True} | values)
    return await opened.generation.start(asked)


async def test_equal_requests_share_a_generation() -> None:
    async with sharing() as (opened, client, go_on):
        generations = [await start(opened) for _ in range(3)]
        assert len(sent(client)) == 1
        go_on.set()
        texts = [(await collect(generation)).text for generation in generations]
    assert texts == ["abc"] * 3


@pytest.mark.parametrize(
    "other",
    [{"caller": "bob"}, {"sampling": GREEDY | {"cache_salt": "s"}}, {"cache": "none"}],
    ids=["caller", "salt", "no-store"],
)
async def test_others_do_not(other: dict[str, Any]) -> None:
    async with sharing() as (opened, client, _):
        generations = [await start(opened), await start(opened, **other)]
        assert len(sent(client)) == 2
        for generation in generations:
            generation.close()


async def test_callers_do_where_the_settings_say_so() -> None:
    async with sharing(caching={"shared": True}) as (opened, client, _):
        generations = [await start(opened, caller=caller) for caller in ("ann", "bob")]
        assert len(sent(client)) == 1
        for generation in generations:
            generation.close()


async def test_each_has_a_deadline_of_its_own() -> None:
    async with sharing(request_timeout=0.2) as (opened, client, go_on):
        leader = await start(opened)
        await asyncio.sleep(0.15)
        follower = await start(opened)
        with pytest.raises(DeadlineExceeded):
            await collect(leader)
        go_on.set()
        assert (await collect(follower)).text == "abc"
        assert len(sent(client)) == 1


async def test_each_pays_for_what_there_was_when_it_left() -> None:
    ledgers = [Ledger() for _ in range(3)]
    async with sharing() as (opened, _, go_on):
        leader, follower, last = [await start(opened, account=ledger) for ledger in ledgers]
        leader.close(ClientDisconnected())
        go_on.set()
        await collect(follower)
        await collect(last)
        await leader.settle()
        await asyncio.sleep(0)
    assert [ledger.settled for ledger in ledgers] == [[4], [6], [6]]


async def test_the_last_one_to_leave_pays_for_all_that_was_computed() -> None:
    ledgers = [Ledger() for _ in range(2)]
    async with sharing() as (opened, client, _):
        for generation in [await start(opened, account=ledger) for ledger in ledgers]:
            generation.close(ClientDisconnected())
        assert client.streams[-1].cancelled
        for _ in range(5):
            await asyncio.sleep(0)
    assert [ledger.settled for ledger in ledgers] == [[4], [6]]


async def test_several_sampled_answers_are_several() -> None:
    client, number = fake_client(), iter(range(100))
    client.on(Generate, lambda _: [Delta(str(next(number)), 1, "stop")])
    caching = {"enabled": True, "cache_type": "memory", "sampled": True}
    body = {"model": "demo", "prompt": "Hi", "n": 3}
    async with gateway(client, caching=caching) as http:
        answers = [await http.post("/v1/completions", json=body) for _ in range(2)]
        greedy = await http.post("/v1/completions", json=body | {"temperature": 0})
    texts = [[c["text"] for c in answer.json()["choices"]] for answer in (*answers, greedy)]
    assert texts[0] == texts[1] == ["0", "1", "2"]
    assert texts[2] == ["3"] * 3


# --- the identity of a model --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "is_kept"),
    [
        ({"weights": "a"}, {"weights": "a", "restarted_at": "1"}, True),
        ({"weights": "a"}, {"weights": "b"}, False),
        ({}, {}, True),
        ({}, {"restarted_at": "1"}, False),
    ],
)
async def test_what_is_kept_belongs_to_the_weights(
    before: dict[str, Any], after: dict[str, Any], is_kept: bool
) -> None:
    client = fake_client(**before)
    async with services(client, caching={"enabled": True, "cache_type": "memory"}) as opened:
        await collect(await start(opened))
        client.add_model("demo", **after)
        await opened.catalog.refresh()
        await collect(await start(opened))
    assert len(sent(client)) == (1 if is_kept else 2)


async def test_while_servers_have_different_weights_what_is_kept_is_theirs_together() -> None:
    clients = [fake_client(weights=weights) for weights in "ab"]
    instances = [Instance(f"server{i}", 1, client) for i, client in enumerate(clients)]
    for instance in instances:
        instance.catalog = Catalog(
            instance.client, "demo", timeout=1, on_unhealthy=lambda model: None
        )
    cluster = ClusterCatalog(instances, "demo")
    await cluster.refresh()
    permitted = PermittedModels(cluster, {"demo"})
    (model,) = permitted
    assert {m.facts.weights for m in permitted.same_name(model)} == {"a", "b"}
