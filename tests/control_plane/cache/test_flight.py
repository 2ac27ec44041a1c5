"""Equal requests that run at the same time share one generation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from control_plane.cache.memory_store import MemoryStore
from control_plane.errors import EngineFailed, InvalidRequest, ModelNotReady, Overloaded, TriadError
from control_plane.inference.client import ResponseStream
from control_plane.inference.fake import FakeStream, Step
from control_plane.inference.responses import Delta
from tests.control_plane.cache.test_response_cache import Cache, read
from tests.support.gateway import until

ANSWER = [Delta("a", 1), Delta("b", 1), Delta("c", 1, "stop", 3)]
KEPT = [Delta("abc", 3, "stop", 3)]
KEY = b"key"


class Model:
    """A model that counts its generations, and whose streams wait after the first delta."""

    def __init__(self, *answers: Iterable[Step[Delta]]) -> None:
        """``answers``: one for each generation; the last one is for all further ones."""
        self.go_on = asyncio.Event()
        self.streams: list[FakeStream[Delta]] = []
        self.answers = answers or ([ANSWER[0], self.go_on, *ANSWER[1:]],)

    def begin(self) -> FakeStream[Delta]:
        answer = self.answers[min(len(self.streams), len(self.answers) - 1)]
        self.streams.append(FakeStream(answer, 1.0))
        return self.streams[-1]


def stream(cache: Cache, model: Model, *, streamed: bool = True) -> ResponseStream[Delta]:
    return cache.stream(KEY, model.begin, streamed=streamed)


async def first(asked: ResponseStream[Delta]) -> Sequence[Delta]:
    """Return the first responses: its generation has begun then."""
    return await asked.__anext__()


async def test_they_share_one_generation() -> None:
    cache, model = Cache(), Model()
    reading = [asyncio.ensure_future(read(stream(cache, model))) for _ in range(5)]
    await until(lambda: cache.counted("shared") == 4)
    model.go_on.set()
    assert await asyncio.gather(*reading) == [ANSWER] * 5
    assert len(model.streams) == 1
    assert cache.counted("miss") == 1
    await cache.settle()
    assert await cache.get(KEY) == KEPT
    assert await read(stream(cache, model)) == KEPT
    assert cache.counted("hit") == 1


async def test_a_follower_gets_what_there_is_and_then_what_comes() -> None:
    cache, model = Cache(), Model()
    leader, follower = stream(cache, model), stream(cache, model)
    assert await first(leader) == ANSWER[:1]
    assert await first(follower) == ANSWER[:1]
    model.go_on.set()
    assert await first(follower) == ANSWER[1:2]
    assert await read(follower) == ANSWER[2:]
    assert await read(leader) == ANSWER[1:]


async def test_it_goes_on_without_the_leader_and_ends_with_the_last() -> None:
    cache, model = Cache(), Model()
    streams = [stream(cache, model) for _ in range(3)]
    for asked in streams:
        await first(asked)
    leader, follower, last = streams
    for asked in (leader, follower):
        asked.cancel()
        assert await asked.rest() == []
        assert await read(asked) == []
    assert not model.streams[0].cancelled
    last.cancel()
    assert model.streams[0].cancelled
    assert list(await last.rest()) == ANSWER[1:]
    await cache.settle()
    assert await cache.get(KEY) is None
    another = stream(cache, model)
    await first(another)
    assert len(model.streams) == 2
    another.cancel()


async def test_who_leaves_while_it_waits_stops_waiting() -> None:
    cache, model = Cache(), Model()
    leader, follower = stream(cache, model), stream(cache, model)
    await first(leader)
    reading = asyncio.ensure_future(read(follower))
    await until(lambda: cache.counted("shared"))
    follower.cancel()
    assert await reading == ANSWER[:1]
    assert not model.streams[0].cancelled
    leader.cancel()


async def test_what_had_come_and_was_not_read_is_the_rest_of_who_leaves() -> None:
    cache, model = Cache(), Model()
    leader, follower = stream(cache, model), stream(cache, model)
    await first(leader)
    await first(follower)
    model.go_on.set()
    await read(follower)
    leader.cancel()
    assert await leader.rest() == ANSWER[1:]


async def test_a_slow_reader_holds_nobody_up() -> None:
    cache, model = Cache(), Model(ANSWER)
    slow, fast = stream(cache, model), stream(cache, model)
    await first(slow)
    assert await read(fast) == ANSWER
    assert await read(slow) == ANSWER[1:]


async def test_nothing_is_read_before_somebody_wants_it() -> None:
    taken: list[int] = []

    def answer() -> Iterable[Step[Delta]]:
        for number in range(1000):
            taken.append(number)
            yield Delta("x", 1)

    cache, model = Cache(), Model(answer())
    asked = stream(cache, model)
    await first(asked)
    await asyncio.sleep(0.01)
    assert len(taken) <= 2
    asked.cancel()


# --- errors -------------------------------------------------------------------------------------


async def fail_together(model: Model, error: TriadError) -> tuple[Cache, list[object]]:
    """Return how five requests end, of which the first fails when the others follow it."""
    cache = Cache()
    leader = asyncio.ensure_future(read(stream(cache, model)))
    await until(lambda: model.streams)
    others = [asyncio.ensure_future(read(stream(cache, model))) for _ in range(4)]
    await until(lambda: cache.counted("shared") == 4)
    model.go_on.set()
    return cache, list(await asyncio.gather(leader, *others, return_exceptions=True))


async def test_all_get_the_error_of_a_request_that_is_wrong() -> None:
    error, model = InvalidRequest("top_k: is odd"), Model()
    model.answers = ([model.go_on, error],)
    _, ends = await fail_together(model, error)
    assert ends == [error] * 5
    assert len(model.streams) == 1


@pytest.mark.parametrize("error", [Overloaded("full"), ModelNotReady("gone"), EngineFailed("x")])
async def test_followers_ask_again_where_the_server_has_failed(error: TriadError) -> None:
    model = Model()
    model.answers = ([model.go_on, error], ANSWER)
    _, ends = await fail_together(model, error)
    assert ends == [error, *[ANSWER] * 4]
    assert len(model.streams) == 2


async def test_followers_ask_again_once() -> None:
    error, model = Overloaded("full"), Model()
    model.answers = ([model.go_on, error], [error])
    _, ends = await fail_together(model, error)
    assert ends == [error] * 5
    assert len(model.streams) == 2


async def test_who_has_got_something_gets_the_error() -> None:
    error, model = EngineFailed("it broke"), Model()
    model.answers = ([ANSWER[0], model.go_on, error],)
    _, ends = await fail_together(model, error)
    assert ends == [error] * 5
    assert len(model.streams) == 1


# --- who joins ----------------------------------------------------------------------------------


async def test_a_whole_answer_is_made_of_a_stream() -> None:
    cache, model = Cache(), Model()
    leader = stream(cache, model)
    await first(leader)
    whole = asyncio.ensure_future(read(stream(cache, model, streamed=False)))
    await until(lambda: cache.counted("shared"))
    model.go_on.set()
    assert await whole == ANSWER
    assert len(model.streams) == 1
    leader.cancel()


async def test_a_stream_does_not_wait_for_a_whole_answer() -> None:
    cache, model = Cache(), Model()
    whole, streamed = stream(cache, model, streamed=False), stream(cache, model)
    await first(whole)
    await first(streamed)
    assert len(model.streams) == 2
    whole.cancel()
    streamed.cancel()


async def test_a_whole_request_asks_for_itself_where_streams_are_refused() -> None:
    error, model = InvalidRequest("stream: is not possible"), Model()
    model.answers = ([model.go_on, error], ANSWER)
    cache = Cache()
    streamed = asyncio.ensure_future(read(stream(cache, model)))
    await until(lambda: model.streams)
    whole = asyncio.ensure_future(read(stream(cache, model, streamed=False)))
    await until(lambda: cache.counted("shared"))
    model.go_on.set()
    assert await whole == ANSWER
    with pytest.raises(InvalidRequest):
        await streamed


async def test_who_refuses_what_is_kept_follows_nobody_and_may_be_followed() -> None:
    cache, model = Cache(), Model()
    leader, renewing = stream(cache, model), cache.stream(KEY, model.begin, reads=False)
    await first(leader)
    await first(renewing)
    assert len(model.streams) == 2
    follower = stream(cache, model, streamed=False)
    await first(follower)
    assert len(model.streams) == 2
    for asked in (leader, renewing, follower):
        asked.cancel()


async def test_an_answer_that_is_being_put_is_found() -> None:
    may_put = asyncio.Event()

    class SlowStore(MemoryStore):
        async def put(self, key: bytes, value: bytes) -> None:
            await may_put.wait()
            await super().put(key, value)

    cache, model = Cache(SlowStore(10**6, 60)), Model(ANSWER)
    assert await read(stream(cache, model)) == ANSWER
    assert await read(stream(cache, model)) == ANSWER
    may_put.set()
    await cache.settle()
    assert await read(stream(cache, model)) == KEPT
    assert len(model.streams) == 1
    assert not cache._flights


async def test_closing_ends_what_is_read() -> None:
    cache, model = Cache(), Model()
    asked = stream(cache, model)
    await first(asked)
    await cache.close()
    assert await read(asked) == []
