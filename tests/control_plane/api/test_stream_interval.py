"""How often a stream gets an event: `stream_interval_ms`, which a model's own file may set."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping

import pytest
import requests

from tests.support.server import TriadServer, scripted_entry, triad_server

pytestmark = pytest.mark.process

INTERVAL_MS = 500
LONG_INTERVAL_MS = 20_000
"""Whoever waits for it is found out on a busy machine, too."""


@pytest.fixture(scope="module")
def intervals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """A server with the scripted model as ``seldom``, `INTERVAL_MS`, as ``rarely``,
    `LONG_INTERVAL_MS`, and as ``always``, 0."""
    folder = tmp_path_factory.mktemp("intervals")
    for name, interval in (("seldom", INTERVAL_MS), ("rarely", LONG_INTERVAL_MS), ("always", 0)):
        value = f'{{ string_value: "{interval}" }}'
        scripted_entry(folder / name, f'parameters {{ key: "stream_interval_ms" value {value} }}\n')
    environment = {"TRIAD_SERVING__MODELS": f"[{folder / 'always'}, {folder / 'rarely'}]"}
    with triad_server(
        folder / "log", "--model", str(folder / "seldom"), environment=environment
    ) as running:
        yield running


def pieces(
    server: TriadServer, model: str, script: Mapping[str, object], wanted: int | None = None
) -> tuple[list[str], list[float]]:
    """The texts of events, and when they came, in seconds. ``wanted``: leave after so many."""
    began, texts, times = time.monotonic(), list[str](), list[float]()
    body = {"prompt": json.dumps(script), "stream": True, "model": model}
    with requests.post(f"{server.url}/generate", json=body, stream=True, timeout=60) as response:
        for line in response.iter_lines():
            if line and "final" not in (event := json.loads(line.removeprefix(b"data: "))):
                texts.append(event["text"])
                times.append(time.monotonic() - began)
            if len(texts) == wanted:
                break
    return texts, times


def test_neither_the_first_token_nor_the_end_waits(intervals: TriadServer) -> None:
    texts, times = pieces(intervals, "rarely", {"tokens": 5, "interval_ms": 50})
    assert texts == ["0 ", "1 2 3 4 "]
    assert times[1] - times[0] < LONG_INTERVAL_MS / 1000


def test_tokens_of_an_interval_share_an_event(intervals: TriadServer) -> None:
    texts, times = pieces(intervals, "seldom", {"tokens": 40, "interval_ms": 50})
    assert "".join(texts) == "".join(f"{i} " for i in range(40))
    assert 4 <= len(texts) <= 6  # 2 s of tokens; the last event may come sooner
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) < 2 * INTERVAL_MS / 1000


def test_a_token_does_not_wait_for_the_next(intervals: TriadServer) -> None:
    script = {"tokens": 9, "interval_ms": 50, "hang_at": 3}
    texts, times = pieces(intervals, "seldom", script, wanted=2)
    assert texts == ["0 ", "1 2 "]
    assert times[1] < 3 * INTERVAL_MS / 1000


def test_a_slow_model_s_tokens_come_one_by_one(intervals: TriadServer) -> None:
    texts, _ = pieces(intervals, "seldom", {"tokens": 3, "interval_ms": 1.2 * INTERVAL_MS})
    assert texts == ["0 ", "1 ", "2 "]


def test_an_error_does_not_wait_and_loses_no_token(intervals: TriadServer) -> None:
    script = {"tokens": 9, "interval_ms": 20, "fail_at": 4}
    body = {"prompt": json.dumps(script), "stream": True, "model": "rarely"}
    began = time.monotonic()
    events = [
        json.loads(line.removeprefix("data: "))
        for line in intervals.post("/generate", body).text.split("\n\n")
        if line
    ]
    assert time.monotonic() - began < LONG_INTERVAL_MS / 1000
    assert [event.get("text") for event in events] == ["0 ", "1 2 3 ", None]
    assert "fails at token 4" in events[-1]["error"]["message"]


def test_without_an_interval_no_token_waits(intervals: TriadServer) -> None:
    texts, _ = pieces(intervals, "always", {"tokens": 100, "interval_ms": 5})
    assert "".join(texts) == "".join(f"{i} " for i in range(100))
    assert len(texts) > 50


def test_by_default_there_are_50_events_a_second(server: TriadServer) -> None:
    texts, times = pieces(server, "scripted", {"tokens": 300, "interval_ms": 2})
    assert "".join(texts) == "".join(f"{i} " for i in range(300))
    assert len(texts) <= 50 * times[-1] + 2
