"""What several servers make of a request when one of them fails: with clients in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from control_plane.balancing import create_strategy
from control_plane.cluster.catalog import ClusterCatalog
from control_plane.cluster.client import ClusterClient
from control_plane.cluster.instance import Instance
from control_plane.errors import (
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    TriadError,
    Unavailable,
)
from control_plane.inference.client import ResponseStream, ask
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate, Tokenize
from control_plane.inference.responses import Delta, Tokens
from control_plane.models.catalog import Catalog

REQUEST = Generate("demo", "1", "Hi", {"max_tokens": 9}, stream=True)
END = Delta("c", 1, "stop", token_ids=[3])


async def cluster(
    count: int = 2, strategy: str = "round_robin", max_retries: int = 3
) -> tuple[ClusterClient, list[FakeModelClient]]:
    fakes = [FakeModelClient() for _ in range(count)]
    instances: list[Instance] = []
    client = ClusterClient(instances, create_strategy(strategy), max_retries)
    for number, fake in enumerate(fakes):
        fake.add_model("demo")
        instance = Instance(f"server-{number}", 1, fake)
        on_unhealthy = partial(client.on_model_unhealthy, instance)
        instance.catalog = Catalog(fake, "demo", timeout=1, on_unhealthy=on_unhealthy)
        await instance.catalog.refresh()
        instances.append(instance)
    return client, fakes


async def read(stream: ResponseStream[Delta]) -> str:
    return "".join([delta.text async for deltas in stream for delta in deltas])


def generates(fake: FakeModelClient) -> list[Generate]:
    return [request for request in fake.requests if isinstance(request, Generate)]


async def test_servers_take_turns() -> None:
    client, fakes = await cluster()
    for fake in fakes:
        fake.on(Generate, lambda _: [END])
    for _ in range(4):
        assert await read(client.infer(REQUEST, timeout=5)) == "c"
    assert [len(generates(fake)) for fake in fakes] == [2, 2]
    assert [(i.running, i.sent, i.failed) for i in client.instances] == [(0, 2, 0)] * 2


async def test_a_request_that_fails_before_its_first_response_is_sent_again() -> None:
    client, (first, second) = await cluster()
    first.on(Generate, lambda _: [Unavailable("away")])
    second.on(Generate, lambda _: [END])
    assert await read(client.infer(REQUEST, timeout=5)) == "c"
    assert generates(second)[0].resume_token_ids == []
    assert [i.failed for i in client.instances] == [1, 0]


async def test_an_answer_is_resumed_after_the_tokens_that_have_come() -> None:
    client, (first, second) = await cluster()
    first.on(
        Generate,
        lambda _: [Delta("a", 1, token_ids=[1]), Delta("b", 1, token_ids=[2]), Unavailable("away")],
    )
    second.on(Generate, lambda _: [END])
    assert await read(client.infer(REQUEST, timeout=5)) == "abc"
    (resumed,) = generates(second)
    assert resumed.resume_token_ids == [1, 2]
    assert resumed.returns == ["token_ids"]


@pytest.mark.parametrize(
    "error", [EngineFailed("broke"), InvalidRequest("prompt: bad", param="prompt")]
)
async def test_what_another_server_cannot_help_is_raised(error: TriadError) -> None:
    client, (first, second) = await cluster()
    first.on(Generate, lambda _: [error])
    with pytest.raises(type(error)):
        await read(client.infer(REQUEST, timeout=5))
    assert not generates(second)


async def test_an_answer_that_cannot_be_resumed_keeps_the_first_failure() -> None:
    client, (first, second) = await cluster()
    first.on(Generate, lambda _: [Delta("a", 1, token_ids=[1]), Unavailable("away")])
    second.on(Generate, lambda _: [InvalidRequest("resume_token_ids: no", param="x")])
    with pytest.raises(Unavailable, match="away"):
        await read(client.infer(REQUEST, timeout=5))


@pytest.mark.parametrize(("retries", "servers"), [(0, 1), (1, 2), (2, 3)])
async def test_retries_are_bounded(retries: int, servers: int) -> None:
    client, fakes = await cluster(4, max_retries=retries)
    for fake in fakes:
        fake.on(Generate, lambda _: [Unavailable("away")])
    with pytest.raises(Unavailable):
        await read(client.infer(REQUEST, timeout=5))
    assert sum(len(generates(fake)) for fake in fakes) == servers


async def test_each_server_is_tried_once() -> None:
    client, fakes = await cluster(2, max_retries=9)
    for fake in fakes:
        fake.on(Generate, lambda _: [Unavailable("away")])
    with pytest.raises(Unavailable):
        await read(client.infer(REQUEST, timeout=5))
    assert [len(generates(fake)) for fake in fakes] == [1, 1]


async def test_a_question_is_sent_again_too() -> None:
    client, (first, second) = await cluster()
    tokens = Tokens([1], ["a"], ["a"])
    first.on(Tokenize, lambda _: [Unavailable("away")])
    second.on(Tokenize, lambda _: [tokens])
    assert await ask(client, Tokenize("demo", "1", "a"), timeout=5) == tokens


async def test_a_model_that_becomes_unhealthy_fails_over_what_waits_for_it() -> None:
    client, (first, second) = await cluster()
    first.on(Generate, lambda _: [Delta("ab", 1, token_ids=[1]), asyncio.Event()])
    second.on(Generate, lambda _: [END])
    stream = client.infer(REQUEST, timeout=5)
    assert [delta.text for delta in await anext(stream)] == ["ab"]
    rest = asyncio.ensure_future(read(stream))
    await asyncio.sleep(0)
    first.models["demo"].ready = False
    await client.instances[0].catalog.refresh()
    assert await rest == "c"
    assert generates(second)[0].resume_token_ids == [1]


async def test_nothing_is_ready_anywhere() -> None:
    client, fakes = await cluster()
    for fake, instance in zip(fakes, client.instances, strict=True):
        fake.models["demo"].ready = False
        await instance.catalog.refresh()
    with pytest.raises(ModelNotReady, match="is ready nowhere"):
        await read(client.infer(REQUEST, timeout=5))
    with pytest.raises(ModelNotReady):
        await client.model_parameters("demo", timeout=5)


async def test_a_cancelled_request_says_what_was_generated() -> None:
    client, (first, _) = await cluster()
    first.on(Generate, lambda _: [Delta("a", 1), asyncio.Event(), END])
    stream = client.infer(REQUEST, timeout=5)
    await anext(stream)
    stream.cancel()
    assert first.streams[-1].cancelled
    assert [delta.text for delta in await stream.rest()] == ["c"]
    assert await read(stream) == ""
    assert [i.running for i in client.instances] == [0, 0]
    never = client.infer(REQUEST, timeout=5)
    never.cancel()
    assert await never.rest() == ()


async def test_servers_look_like_one() -> None:
    client, fakes = await cluster()
    fakes[0].models["demo"].ready = False
    fakes[1].add_model("more", configuration={"served_model_name": "More"})
    catalog = ClusterCatalog(client.instances, "demo")
    await catalog.refresh()
    assert await client.repository_index(timeout=5) == {"demo": True, "more": True}
    assert await client.model_parameters("more", timeout=5) == {"served_model_name": "More"}
    names: Sequence[str] = sorted(model.served_name for model in catalog)
    assert names == ["More", "demo"]
    assert catalog.ready("demo").ready
    assert client.last_heard("demo") > 0
    catalog.add_name("later")
    catalog.request_refresh()
    await client.close()
    assert all(fake.closed for fake in fakes)
