"""The cache of answers, over a store in memory and over one that fails."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from control_plane.cache.memory_store import MemoryStore
from control_plane.cache.packing import MAX_UNPACKED_BYTES
from control_plane.cache.response_cache import ResponseCache, open_cache
from control_plane.cache.store import Store, StoreError
from control_plane.inference.client import ResponseStream
from control_plane.inference.fake import FakeStream
from control_plane.inference.prompts import Text, TokenIds
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.observability.metrics import Metrics
from control_plane.settings import CachingSettings
from tests.support.compressed import MEBIBYTE, repeated

ANSWER = [Delta("a", 1), Delta("b", 1, "stop", 3)]
KEPT = [Delta("ab", 2, "stop", 3)]
ENTRY = {"7": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}}
REQUEST = Generate("demo", "req_1", "Hi", {"max_tokens": 5})


class FailingStore:
    """A store that does not work."""

    async def get(self, key: bytes) -> bytes | None:
        raise StoreError("the store is away")

    async def put(self, key: bytes, value: bytes) -> None:
        raise StoreError("the store is away")

    async def close(self) -> None: ...


class Cache(ResponseCache):
    """A cache whose results can be counted."""

    def __init__(self, store: Store | None = None, **values: bool) -> None:
        self.store = store or MemoryStore(10**6, 60)
        super().__init__(self.store, Metrics(), **values)

    def counted(self, result: str) -> float:
        count: float = self._counter.labels(result)._value.get()
        return count

    async def settle(self) -> None:
        """Wait for answers that are being put."""
        await asyncio.gather(*self._putting)

    async def keep(self, *deltas: Delta) -> list[Delta] | None:
        """Put an answer, and return what is got again."""
        self.put(b"key", deltas)
        await self.settle()
        return await self.get(b"key")


async def read(stream: ResponseStream[Delta]) -> list[Delta]:
    return [delta async for deltas in stream for delta in deltas]


async def test_an_answer_is_kept_in_one_part() -> None:
    cache = Cache()
    assert await cache.get(b"key") is None
    full = Delta("é", 1, None, 3, [ENTRY], [None, ENTRY], True, [7], [0], [5, 6])
    last = Delta("", 0, "length", 3)
    more = Delta("b", 2, None, 3, [ENTRY], None, False, [8, 9], [1, 2])
    both = [ENTRY, ENTRY]
    whole = Delta("éb", 3, "length", 3, both, [None, ENTRY], True, [7, 8, 9], [0, 1, 2], [5, 6])
    assert await cache.keep(full, more, last) == [whole]
    assert await cache.keep(whole) == [whole]
    assert await cache.keep(*ANSWER) == KEPT


async def test_a_store_that_fails_costs_only_its_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = Cache(FailingStore())
    for _ in range(2):
        assert await read(cache.stream(b"key", lambda: FakeStream(ANSWER, 1.0))) == ANSWER
        await cache.settle()
    assert cache.counted("error") == 2
    assert caplog.text.count("the cache does not work now") == 1  # in 30 s


def packed(value: object) -> bytes:
    return zlib.compress(orjson.dumps(value))


WHOLE = {"text": "a", "tokens": 1, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "value",
    [
        b"no zlib",
        packed(WHOLE),
        packed([]),
        packed([{"text": "a", "tokens": 1}]),
        packed([WHOLE | {"finish_reason": "odd"}]),
        packed([WHOLE, WHOLE]),
        packed([WHOLE | {"more": 1}]),
        packed([WHOLE | {"tokens": "1"}]),
        packed([WHOLE | {"logprobs": [{}]}]),
        packed([WHOLE | {"logprobs": [{"7": {"logprob": -1.0}}]}]),
        packed([WHOLE | {"prompt_logprobs": [None, {"7": {}}]}]),
        packed([WHOLE])[:-5],
        repeated(b" ", MAX_UNPACKED_BYTES // MEBIBYTE + 1),
    ],
)
async def test_a_value_that_is_no_answer_is_an_error(value: bytes) -> None:
    cache = Cache()
    await cache.store.put(b"key", value)
    with pytest.raises(StoreError):
        await cache.get(b"key")


async def test_an_answer_that_is_too_large_is_not_kept() -> None:
    cache = Cache()
    assert await cache.keep(Delta("x" * MAX_UNPACKED_BYTES, 1, "stop")) is None


# --- keys ---------------------------------------------------------------------------------------


def key(cache: ResponseCache | None = None, caller: str = "a", **values: Any) -> bytes:  # noqa: ANN401
    fields = {name: getattr(REQUEST, name) for name in Generate.__slots__} | values
    asked = Generate(fields.pop("model", "demo"), fields.pop("request_id", "1"), **fields)
    return (cache or Cache()).key(asked, "facts", caller)


@pytest.mark.parametrize("values", [{"request_id": "2"}, {"stream": True}])
def test_what_changes_no_answer_changes_no_key(values: dict[str, Any]) -> None:
    assert key(**values) == key()


@pytest.mark.parametrize(
    "values",
    [
        {"model": "other"},
        {"prompt": "Ho"},
        {"prompt": Text("Hi")},
        {"prompt": TokenIds([1])},
        {"sampling": {"max_tokens": 6}},
        {"returns": ["logprobs"]},
        {"caller": "b"},
    ],
)
def test_what_changes_an_answer_changes_the_key(values: dict[str, Any]) -> None:
    assert key(**values) != key()


def test_facts_of_the_model_are_in_the_key() -> None:
    cache = Cache()
    assert cache.key(REQUEST, "one", "a") != cache.key(REQUEST, "other", "a")


def test_several_sampled_answers_have_keys_of_their_own() -> None:
    cache = Cache()
    assert len({cache.key(REQUEST, "facts", "a", number) for number in range(3)}) == 3


def test_callers_share_answers_where_the_settings_say_so() -> None:
    cache = Cache(shared=True)
    assert key(cache, caller="b") == key(cache, caller="a")


# --- streams ------------------------------------------------------------------------------------


async def test_a_stream_that_ends_is_given_again() -> None:
    cache, begun = Cache(), []

    def begin() -> FakeStream[Delta]:
        begun.append(FakeStream(ANSWER, 1.0))
        return begun[-1]

    assert await read(cache.stream(b"key", begin)) == ANSWER
    await cache.settle()
    again = cache.stream(b"key", begin)
    assert await read(again) == KEPT
    assert await again.rest() == ()
    assert await read(cache.stream(b"key", begin, reads=False)) == ANSWER
    assert len(begun) == 2
    assert (cache.counted("miss"), cache.counted("hit")) == (1, 1)


@pytest.mark.parametrize("answer", [[], [Delta("a", 1)]])
async def test_a_stream_without_an_ending_is_not_kept(answer: list[Delta]) -> None:
    cache = Cache()
    assert await read(cache.stream(b"key", lambda: FakeStream(answer, 1.0))) == answer
    await cache.settle()
    assert await cache.get(b"key") is None


async def test_a_stream_that_its_client_leaves_is_cancelled_and_not_kept() -> None:
    cache, begun = Cache(), FakeStream(ANSWER, 1.0)
    stream = cache.stream(b"key", lambda: begun)
    await anext(stream)
    stream.cancel()
    assert begun.cancelled
    assert await read(stream) == []
    assert list(await stream.rest()) == ANSWER[1:]
    await cache.settle()
    assert await cache.get(b"key") is None


async def test_a_client_that_leaves_while_the_store_is_asked_begins_nothing() -> None:
    answering = asyncio.Event()

    class SlowStore(MemoryStore):
        async def get(self, key: bytes) -> bytes | None:
            await answering.wait()
            return await super().get(key)

    def begin() -> FakeStream[Delta]:
        raise AssertionError("nothing is to be generated")

    stream = Cache(SlowStore(1000, 60)).stream(b"key", begin)
    reading = asyncio.ensure_future(read(stream))
    await asyncio.sleep(0)
    stream.cancel()
    answering.set()
    assert await reading == []


# --- settings -----------------------------------------------------------------------------------


@pytest.fixture
async def opened() -> AsyncIterator[ResponseCache | None]:
    values = {"enabled": True, "cache_type": "memory", "sampled": True}
    async with open_cache(CachingSettings.model_validate(values), Metrics()) as cache:
        yield cache


async def test_a_cache_of_the_settings(opened: ResponseCache | None) -> None:
    assert opened is not None
    assert opened.keeps_sampled


async def test_no_cache_where_it_is_not_enabled() -> None:
    async with open_cache(CachingSettings(enabled=False), Metrics()) as cache:
        assert cache is None
