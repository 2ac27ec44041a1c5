"""Generations from their start to their one ending, with a model client in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from backends.contract.facts import ModelFacts
from control_plane.errors import (
    ClientDisconnected,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    RateLimited,
    ShuttingDown,
    TriadError,
    Unavailable,
)
from control_plane.generation.requests import GenerationRequest
from control_plane.generation.result import collect
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.prompts import TokenIds
from control_plane.inference.requests import Describe, Encode, Generate
from control_plane.inference.responses import Delta
from control_plane.services import Services, open_services
from tests.support.gateway import fake_client, sent, settings

MAX_TOKENS = 5


@asynccontextmanager
async def services(client: FakeModelClient, **values: Any) -> AsyncIterator[Services]:  # noqa: ANN401
    async with open_services(settings(**values), client=client) as opened:
        yield opened


def request(**values: Any) -> GenerationRequest:  # noqa: ANN401
    defaults = {
        "prompt": "Hi",
        "sampling": {"max_tokens": MAX_TOKENS},
        "request_id": "req_1",
        "caller": "ann",
    }
    return GenerationRequest(**{**defaults, **values})


def outcome(opened: Services, name: str, model: str = "demo") -> float:
    count: float = opened.metrics.requests.labels(model, name)._value.get()
    return count


async def test_a_whole_answer() -> None:
    client = fake_client(configuration={"served_model_name": "Demo"})
    async with services(client, model="Demo") as opened:
        result = await collect(await opened.generation.start(request()))
        assert (result.text, result.tokens_generated, result.finish_reason) == (
            "Hello world",
            3,
            "stop",
        )
        assert (result.model_name, result.backend) == ("Demo", "fake")
        assert opened.generation.running == 0
        assert opened.stats.snapshot()["total_tokens_generated"] == 3
        assert outcome(opened, "stop", "Demo") == 1
    (generate,) = sent(client)
    assert isinstance(generate, Generate)
    assert (generate.model, generate.prompt, generate.stream) == ("demo", "Hi", False)
    assert client.closed


async def test_a_stream_is_read_delta_by_delta() -> None:
    async with services(fake_client()) as opened:
        generation = await opened.generation.start(request(stream=True))
        assert opened.generation.running == 1
        batches = [list(deltas) async for deltas in generation]
        generation.close()
    assert [delta.text for deltas in batches for delta in deltas] == ["Hello", " world"]
    assert generation.tokens == 3
    assert not opened.generation.running


@dataclass
class Ledger:
    """An account that keeps what is reserved and what is settled."""

    reserved: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    refuses: bool = False

    async def reserve(self, tokens: int) -> Ledger:
        if self.refuses:
            raise RateLimited("too many tokens", 1)
        self.reserved.append(tokens)
        return self

    def settle(self, used: int) -> None:
        self.settled.append(used)


async def test_usage_counts_the_prompt_once() -> None:
    client = fake_client()
    ledger = Ledger()
    async with services(client) as opened:
        for counts_prompt in (True, False):
            asked = request(
                account=ledger, estimated_prompt_tokens=100, counts_prompt=counts_prompt
            )
            await collect(await opened.generation.start(asked))
    assert ledger.reserved == [100 + MAX_TOKENS, MAX_TOKENS]
    assert ledger.settled == [6, 3]
    assert [r.returns for r in sent(client) if isinstance(r, Generate)] == [
        ["num_input_tokens"],
        (),
    ]


async def test_usage_of_a_client_that_leaves_is_what_was_computed() -> None:
    """The model says after the cancellation what nobody had read yet."""
    client = fake_client()
    ledger = Ledger()
    client.on(
        Generate,
        lambda _: [Delta("a", 1), asyncio.Event(), Delta("bc", 2, prompt_tokens=7)],
    )
    async with services(client) as opened:
        generation = await opened.generation.start(request(stream=True, account=ledger))
        await anext(generation)
        generation.close(ClientDisconnected())
        for _ in range(5):
            await asyncio.sleep(0)
        assert client.streams[-1].cancelled
        assert outcome(opened, ClientDisconnected.type) == 1
    assert ledger.settled == [10]


async def test_an_account_without_enough_tokens_begins_nothing() -> None:
    client = fake_client()
    ledger = Ledger(refuses=True)
    async with services(client) as opened:
        with pytest.raises(RateLimited):
            await opened.generation.start(request(account=ledger))
        assert not opened.generation.running
    assert not any(isinstance(r, Generate) for r in sent(client))
    assert ledger.settled == []


async def test_no_more_is_reserved_than_the_context_holds() -> None:
    ledger = Ledger()
    async with services(fake_client(context_length=50)) as opened:
        asked = request(account=ledger, estimated_prompt_tokens=1000)
        await collect(await opened.generation.start(asked))
    assert ledger.reserved == [50]


@pytest.mark.parametrize(
    "error",
    [EngineFailed("broke"), InvalidRequest("prompt: bad", param="prompt"), ModelNotReady("gone")],
)
async def test_an_error_before_the_first_response_is_raised_at_once(error: TriadError) -> None:
    client = fake_client()
    client.on(Generate, lambda _: [error])
    async with services(client) as opened:
        with pytest.raises(type(error), match=str(error)):
            await opened.generation.start(request())
        assert outcome(opened, error.type) == 1
        assert opened.generation.running == 0


async def test_an_error_after_the_first_response_ends_the_iteration() -> None:
    client = fake_client()
    client.on(Generate, lambda _: [Delta("a", 1), EngineFailed("broke")])
    async with services(client) as opened:
        generation = await opened.generation.start(request(stream=True))
        with pytest.raises(EngineFailed, match="broke"):
            async for _ in generation:
                pass
        with pytest.raises(EngineFailed):
            await collect(await opened.generation.start(request()))
        assert outcome(opened, EngineFailed.type) == 1
        generation.close(EngineFailed("broke"))
        generation.close()  # a second time it does nothing
        assert outcome(opened, EngineFailed.type) == 2


async def test_a_stream_that_ends_without_a_finish_reason_is_an_error() -> None:
    client = fake_client()
    client.on(Generate, lambda _: [Delta("a", 1)])
    async with services(client) as opened:
        with pytest.raises(EngineFailed, match="ended the stream early"):
            await collect(await opened.generation.start(request()))


async def test_a_generation_has_a_deadline() -> None:
    client = fake_client()
    client.on(Generate, lambda _: [Delta("a", 1), asyncio.Event()])
    async with services(client, request_timeout=0.05) as opened:
        with pytest.raises(DeadlineExceeded):
            await collect(await opened.generation.start(request()))
        assert client.streams[-1].cancelled
        assert client.streams[-1].timeout > 0.05  # the model's own deadline comes later


async def test_an_unhealthy_model_ends_what_runs_on_it() -> None:
    client = fake_client("demo", "other")
    client.on(Generate, lambda _: [Delta("a", 1), asyncio.Event()])
    async with services(client, models=["other"]) as opened:
        ours = await opened.generation.start(request(stream=True))
        other = await opened.generation.start(request(stream=True, model="other"))
        client.models["demo"].ready = False
        await opened.catalog.refresh()
        await anext(ours)
        with pytest.raises(ModelNotReady, match="died while it was generating"):
            await anext(ours)
        assert [delta.text for delta in await anext(other)] == ["a"]
        opened.generation.generations.close(ShuttingDown("the server is shutting down"))
        with pytest.raises(ShuttingDown):
            await anext(other)
        for generation in (ours, other):
            generation.close()


async def test_nothing_begins_while_the_server_shuts_down() -> None:
    async with services(fake_client()) as opened:
        opened.generation.generations.close(ShuttingDown("the server is shutting down"))
        with pytest.raises(ShuttingDown):
            await opened.generation.start(request())
        assert outcome(opened, ShuttingDown.type, "") == 1


async def test_models_are_found_by_name() -> None:
    client = fake_client()
    client.add_model("encoder", type="embedding", embedding_dimension=4)
    async with services(client, models=["encoder"]) as opened:
        with pytest.raises(ModelNotFound):
            await opened.generation.start(request(model="none"))
        with pytest.raises(InvalidRequest, match="does not generate text"):
            await opened.generation.start(request(model="encoder"))


async def test_a_server_that_cannot_be_reached_is_asked_again_soon() -> None:
    client, described = fake_client(), asyncio.Event()
    client.on(Generate, lambda _: [Unavailable("away")])
    async with services(client, triton={"health_check_interval": 60.0}) as opened:
        facts = client.models["demo"].facts

        def describe(_: Describe) -> list[ModelFacts]:
            described.set()
            return [facts]

        client.on(Describe, describe)
        with pytest.raises(Unavailable):
            await opened.generation.start(request())
        await asyncio.wait_for(described.wait(), 5)


async def test_a_prompt_that_cannot_fit_is_not_sent() -> None:
    client = fake_client(context_length=4, characters_per_token=2)
    async with services(client) as opened:
        for prompt in ("x" * 9, TokenIds([1, 2, 3, 4])):
            with pytest.raises(ContextLengthExceeded):
                await opened.generation.start(request(prompt=prompt))
    assert not sent(client)


async def test_encoding_a_prompt() -> None:
    client = fake_client()
    client.on(Encode, lambda _: [TokenIds([5, 6])])
    async with services(client) as opened:
        assert await opened.generation.encode(request()) == TokenIds([5, 6])
