"""`caching`: with `clock`, a scripted answer holds the times at which it was made, so that one
which was kept can be told from a new one."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from redis import Redis

from control_plane.auth.keys import KeyStore
from tests.conftest import ServerFactory
from tests.support.compressed import repeated
from tests.support.redis_server import RedisServer, redis_server
from tests.support.server import SCRIPTED, TriadServer, triad, triad_server, wait_until

pytestmark = pytest.mark.process

GREEDY: dict[str, Any] = {"temperature": 0}


def asking(seed: int = 0, **script: Any) -> str:  # noqa: ANN401
    """A prompt whose answer is another each time."""
    return json.dumps({"tokens": 4, "clock": True, "delay_ms": 1, "piece": seed} | script)


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    environment = {
        "TRIAD_SERVING__CACHING__ENABLED": "true",
        "TRIAD_SERVING__CACHING__CACHE_TYPE": "memory",
        "TRIAD_SERVING__CACHING__TTL_SECONDS": "3",
    }
    log = tmp_path_factory.mktemp("caching") / "log"
    with triad_server(log, "--model", str(SCRIPTED), environment=environment) as running:
        yield running


@pytest.fixture
def prompt(request: pytest.FixtureRequest) -> str:
    """One of the test's own."""
    return asking(abs(hash(request.node.name)) % 10**9 + 1)


def text(
    server: TriadServer,
    prompt: str,
    headers: dict[str, str] | None = None,
    **body: Any,  # noqa: ANN401
) -> str:
    response = server.post("/generate", {"prompt": prompt, **body}, headers=headers)
    response.raise_for_status()
    if not body.get("stream"):
        assert response.json()["tokens_generated"] == len(response.json()["text"].split())
        return str(response.json()["text"])
    events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line]
    assert events[-1]["final"]
    assert events[-2]["tokens_generated"] == len("".join(e["text"] for e in events).split())
    assert {event["request_id"] for event in events} == {response.headers["X-Request-Id"]}
    return "".join(event["text"] for event in events)


def test_an_equal_request_gets_the_same_answer(caching: TriadServer, prompt: str) -> None:
    first = text(caching, prompt, **GREEDY)
    assert text(caching, prompt, **GREEDY) == first
    assert text(caching, prompt, metadata={"user_id": "other"}, **GREEDY) == first
    assert len(first.split()) == 4


def test_streams_and_whole_answers_serve_each_other(caching: TriadServer, prompt: str) -> None:
    streamed = text(caching, prompt, stream=True, **GREEDY)
    assert text(caching, prompt, **GREEDY) == streamed
    assert text(caching, prompt, stream=True, **GREEDY) == streamed
    other = prompt.replace('"tokens": 4', '"tokens": 5')
    whole = text(caching, other, **GREEDY)
    assert text(caching, other, stream=True, **GREEDY) == whole


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 3}, {"stop_sequences": ["x"]}, {"seed": 1}, {"ignore_eos": True}],
    ids=lambda change: next(iter(change)),
)
def test_another_request_gets_another_answer(
    caching: TriadServer, prompt: str, change: dict[str, Any]
) -> None:
    first = text(caching, prompt, **GREEDY)
    assert text(caching, prompt, **GREEDY, **change) != first
    assert text(caching, prompt + " ", **GREEDY) != first


def test_chance_has_no_part_in_what_is_kept(caching: TriadServer, prompt: str) -> None:
    assert text(caching, prompt) != text(caching, prompt)
    seeded: dict[str, Any] = {"seed": 7, "temperature": 0.9}
    assert text(caching, prompt, **seeded) == text(caching, prompt, **seeded)
    assert text(caching, prompt, **seeded) != text(caching, prompt, **seeded | {"seed": 8})


def test_an_answer_is_kept_as_long_as_was_set(caching: TriadServer, prompt: str) -> None:
    first = text(caching, prompt, **GREEDY)
    time.sleep(3.1)
    assert text(caching, prompt, **GREEDY) != first


def test_a_client_may_refuse_what_is_kept(caching: TriadServer, prompt: str) -> None:
    first = text(caching, prompt, **GREEDY)
    renewed = text(caching, prompt, {"Cache-Control": "no-cache"}, **GREEDY)
    assert renewed != first
    assert text(caching, prompt, **GREEDY) == renewed
    secret = text(caching, prompt, {"Cache-Control": "max-age=0, no-store"}, **GREEDY)
    assert secret != renewed
    assert text(caching, prompt, **GREEDY) == renewed


def test_openai_s_routes_keep_theirs(caching: TriadServer, prompt: str) -> None:
    with openai.OpenAI(base_url=f"{caching.url}/v1", api_key="none") as client:
        create = client.completions.create
        fields: dict[str, Any] = {"model": "scripted", "prompt": prompt, "temperature": 0}
        first = create(**fields, logprobs=1)
        second = create(**fields, logprobs=1)
        assert second.id != first.id
        assert second.choices == first.choices
        assert second.usage == first.usage
        without = create(**fields)
        assert without.choices[0].text != first.choices[0].text
        streaming: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        stream = list(create(**fields, **streaming, logprobs=1))
        assert "".join(c.choices[0].text for c in stream if c.choices) == first.choices[0].text
        assert len({choice.text for choice in create(**fields, n=3, seed=5).choices}) == 3


def test_what_did_not_end_is_not_kept(caching: TriadServer) -> None:
    failing = asking(5, fail_at=2)
    for _ in range(2):
        assert caching.post("/generate", {"prompt": failing, **GREEDY}).status_code == 500
    slow = {"prompt": asking(6, tokens=40, interval_ms=25), "stream": True, **GREEDY}
    with requests.post(f"{caching.url}/generate", json=slow, stream=True, timeout=60) as left:
        start = json.loads(next(left.iter_lines())[6:])["text"]
    wait_until(lambda: caching.gauge("triad_requests_running") == 0)
    again = text(caching, slow["prompt"], **GREEDY)
    assert len(again.split()) == 40
    assert not again.startswith(start)


def test_hits_are_counted(caching: TriadServer, prompt: str) -> None:
    def counts() -> list[float]:
        results = ("hit", "miss")
        return [caching.gauge(f'triad_cache_requests_total{{result="{r}"}}') for r in results]

    hits, misses = counts()
    for _ in range(3):
        text(caching, prompt, **GREEDY)
    text(caching, prompt)  # which could not have been kept
    assert counts() == [hits + 2, misses + 1]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_equal_requests_at_the_same_time_share_an_answer(
    caching: TriadServer, prompt: str, stream: bool
) -> None:
    slow = prompt.replace('"delay_ms": 1', f'"delay_ms": 500, "interval_ms": {10 + stream}')
    shared = 'triad_cache_requests_total{result="shared"}'
    before = caching.gauge(shared)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(text, caching, slow, stream=stream, **GREEDY) for _ in range(8)]
        (made,) = {answer.result() for answer in asked}
    assert len(made.split()) == 4
    assert caching.gauge(shared) == before + 7


def test_a_file_serves_the_next_server(start_server: ServerFactory, tmp_path: Path) -> None:
    settings = {
        "TRIAD_SERVING__CACHING__ENABLED": "true",
        "TRIAD_SERVING__CACHING__CACHE_TYPE": "disk",
        "TRIAD_SERVING__CACHING__FOLDER": str(tmp_path / "cache"),
        "TRIAD_SERVING__CACHING__SAMPLED": "true",
    }
    first = start_server(**settings)
    made = text(first, asking(8))
    assert text(first, asking(8)) == made
    first.stop()
    assert text(start_server(**settings), asking(8)) == made


@pytest.mark.parametrize("shared", [False, True], ids=["apart", "shared"])
def test_callers_get_each_other_s_answers_only_where_these_are_shared(
    start_server: ServerFactory, keys: KeyStore, shared: bool
) -> None:
    server = start_server(
        TRIAD_SERVING__AUTH__ENABLED="true",
        TRIAD_SERVING__AUTH__KEY_STORE=str(keys.file),
        TRIAD_SERVING__CACHING__ENABLED="true",
        TRIAD_SERVING__CACHING__CACHE_TYPE="memory",
        TRIAD_SERVING__CACHING__SHARED=str(shared).lower(),
    )
    first, second = (
        {"Authorization": f"Bearer {keys.create(name, ['llm:generate'])}"} for name in "ab"
    )
    made = text(server, asking(10), first, **GREEDY)
    assert text(server, asking(10), first, **GREEDY) == made
    assert (text(server, asking(10), second, **GREEDY) == made) is shared


def test_a_salt_keeps_answers_apart(caching: TriadServer, prompt: str) -> None:
    def complete(**salt: str) -> str:
        body = {"model": "scripted", "prompt": prompt, "temperature": 0, **salt}
        return str(caching.post("/v1/completions", body).json()["choices"][0]["text"])

    made = complete(cache_salt="a")
    assert complete(cache_salt="a") == made
    assert complete(cache_salt="b") != made
    assert complete() != made


def _packed(*deltas: dict[str, Any]) -> bytes:
    return zlib.compress(json.dumps(deltas).encode())


TEXT = {"text": "x", "tokens": 1}
END = {"text": "", "tokens": 0, "finish_reason": "stop"}
POISON: dict[str, bytes] = {
    "nothing": b"",
    "no answer": _packed(),
    "an empty response": _packed({}),
    "an answer without its end": _packed(TEXT),
    "an answer that ends twice": _packed(END, END),
    "an end for no known reason": _packed(END | {"finish_reason": "done"}),
    "a cut value": _packed(TEXT, END)[:-4],
    "a text that is not UTF-8": zlib.compress(b'[{"text": "\xff", "tokens": 1}]'),
    "a text that is a number": _packed(TEXT | {"text": 5}, END),
    "an unknown field": _packed(TEXT | {"more": 5}, END),
    "other log probabilities": _packed(END | {"logprobs": [5]}),
    "log probabilities without a rank": _packed(END | {"logprobs": [{"7": {"logprob": -1.0}}]}),
    "a value that unpacks to a gigabyte": repeated(b"\0", 1024),
    "nesting without an end": zlib.compress(b"[" * 2**20),
    "noise": bytes(range(256)),
}


def test_what_is_no_whole_answer_is_a_miss(start_server: ServerFactory, redis: RedisServer) -> None:
    """Whoever writes into the store must not bring requests to fail, nor the server down."""
    server = start_server(
        TRIAD_SERVING__CACHING__ENABLED="true", TRIAD_SERVING__CACHING__REDIS_URL=redis.url
    )
    with Redis.from_url(redis.url) as store:
        text(server, asking(11), **GREEDY)
        wait_until(lambda: store.keys("triad:answer:*"))
        (key,) = store.keys("triad:answer:*")
        before = server.process_memory()
        for name, value in POISON.items():
            store.set(key, value)
            made = text(server, asking(11), **GREEDY)
            assert len(made.split()) == 4, name
            wait_until(lambda value=value: store.get(key) != value)  # type: ignore[misc]
        store.delete(key)
        store.lpush(key, "of another type")
        assert len(text(server, asking(11), **GREEDY).split()) == 4
        assert server.process_memory() - before < 400 * 2**20


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis.log") as running:
        yield running


def test_servers_share_redis_and_do_without(
    start_server: ServerFactory, redis: RedisServer
) -> None:
    settings = {
        "TRIAD_SERVING__CACHING__ENABLED": "true",
        "TRIAD_SERVING__CACHING__REDIS_URL": redis.url,
    }
    one, other = start_server(**settings), start_server(**settings)
    began = time.monotonic()
    made = text(one, asking(9), **GREEDY)
    usual = time.monotonic() - began
    with Redis.from_url(redis.url) as store:  # else the other server may store an answer of its own
        wait_until(lambda: store.keys("triad:answer:*"))
    assert text(other, asking(9), **GREEDY) == made
    redis.process.kill()
    redis.process.wait()
    began = time.monotonic()
    assert text(one, asking(9), **GREEDY) != made
    assert time.monotonic() - began < 2 + 5 * usual
    assert "the cache does not work now" in one.log.read_text()
    assert one.gauge('triad_cache_requests_total{result="error"}') >= 1


def test_a_folder_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    variables = {"ENABLED": "true", "CACHE_TYPE": "disk", "FOLDER": str(tmp_path / "file")}
    done = triad("serve", **{f"TRIAD_SERVING__CACHING__{k}": v for k, v in variables.items()})
    assert done.returncode == 1
    assert "serving.caching.folder: " in done.stderr
