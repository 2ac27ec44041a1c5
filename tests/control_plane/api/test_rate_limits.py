"""`rate_limiting`, as its callers meet it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import openai
import pytest
import requests

from control_plane.auth.keys import KeyStore
from tests.support.server import SCRIPTED, SCRIPTED_CHAT, TriadServer, triad_server, wait_until

pytestmark = pytest.mark.process

REQUESTS, TOKENS, BURST = 120, 6000, 3
"""A request in 0.5 s; 100 tokens a second."""


@pytest.fixture(scope="module")
def limited(
    keys: KeyStore, encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TriadServer]:
    environment = {
        "TRIAD_SERVING__MODELS": f"[{SCRIPTED_CHAT}, {encoders['bert']}, demo]",
        "TRIAD_SERVING__AUTH__ENABLED": "true",
        "TRIAD_SERVING__AUTH__KEY_STORE": str(keys.file),
        "TRIAD_SERVING__RATE_LIMITING__ENABLED": "true",
        "TRIAD_SERVING__RATE_LIMITING__REQUESTS_PER_MINUTE": str(REQUESTS),
        "TRIAD_SERVING__RATE_LIMITING__TOKENS_PER_MINUTE": str(TOKENS),
        "TRIAD_SERVING__RATE_LIMITING__BURST_ALLOWANCE": str(BURST),
    }
    log = tmp_path_factory.mktemp("limited") / "log"
    with triad_server(log, "--model", str(SCRIPTED), environment=environment) as running:
        yield running


@pytest.fixture
def key(keys: KeyStore) -> str:
    """A caller that nobody has seen yet."""
    return keys.create("one", ["llm:generate"])


def ask(server: TriadServer, key: str, tokens: int = 1, **fields: object) -> requests.Response:
    body = {"prompt": json.dumps({"tokens": tokens}), "max_tokens": tokens, **fields}
    return server.post("/generate", body, headers={"Authorization": f"Bearer {key}"})


def left(response: requests.Response, of: str = "tokens") -> int:
    return int(response.headers[f"x-ratelimit-remaining-{of}"])


def prompt_tokens(tokens: int) -> int:
    """The scripted tokenizer's are bytes."""
    return len(json.dumps({"tokens": tokens}))


def refilled(began: float) -> float:
    """Return how many tokens have come back since a time of `time.monotonic`, at the most."""
    return TOKENS / 60 * (time.monotonic() - began)


def at_once(server: TriadServer, key: str, count: int) -> list[requests.Response]:
    """Return the responses to so many requests, between which nothing comes back."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: ask(server, key), range(count)))


def test_a_burst_and_then_the_steady_rate(limited: TriadServer, key: str) -> None:
    answers = at_once(limited, key, 12)
    allowed = [answer for answer in answers if answer.ok]
    refused = next(answer for answer in answers if not answer.ok)
    assert BURST + 1 <= len(allowed) < 12
    assert max(left(answer, "requests") for answer in allowed) == BURST
    assert allowed[0].headers["x-ratelimit-limit-requests"] == str(REQUESTS)
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limit_exceeded"
    assert "120 a minute" in refused.json()["error"]["message"]
    assert left(refused, "requests") == 0
    assert refused.headers["Retry-After"] == "1"

    last = next(answer for answer in (ask(limited, key) for _ in range(20)) if not answer.ok)
    time.sleep(int(last.headers["retry-after-ms"]) / 1000)
    assert ask(limited, key).ok


def test_each_caller_has_its_own(limited: TriadServer, keys: KeyStore, key: str) -> None:
    assert not all(answer.ok for answer in at_once(limited, key, 12))
    assert ask(limited, keys.create("other", ["llm:generate"])).ok


def test_only_posts_count(limited: TriadServer, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    for _ in range(3 * BURST):
        response = requests.get(f"{limited.url}/models", headers=headers, timeout=10)
        assert response.ok
        assert "x-ratelimit-limit-requests" not in response.headers
    assert left(ask(limited, key), "requests") == BURST


def test_an_answer_costs_its_tokens_and_the_prompt_s(limited: TriadServer, key: str) -> None:
    began = time.monotonic()
    whole = ask(limited, key, 1000)
    cost = 1000 + prompt_tokens(1000)
    assert left(whole) == pytest.approx(TOKENS - cost, abs=5 + refilled(began))
    stream = ask(limited, key, 1000, stream=True)  # whose prompt is estimated at its beginning
    assert left(stream) == pytest.approx(TOKENS - 2 * cost, abs=50 + refilled(began))
    last = left(ask(limited, key))
    assert last == pytest.approx(TOKENS - 2 * cost, abs=50 + refilled(began))


def test_what_was_used_too_much_is_waited_for(limited: TriadServer, key: str) -> None:
    assert ask(limited, key, TOKENS + 400).ok  # so that the next one has 4 s to be refused
    refused = ask(limited, key)
    assert refused.status_code == 429
    assert "6000 a minute" in refused.json()["error"]["message"]
    assert left(refused) == 0
    wait = int(refused.headers["retry-after-ms"]) / 1000
    assert 0 < wait < 5
    time.sleep(wait)
    assert ask(limited, key).ok


def test_a_stream_costs_what_was_generated_though_its_client_left(
    limited: TriadServer, key: str
) -> None:
    body = {"prompt": json.dumps({"tokens": 5000, "interval_ms": 1}), "stream": True}
    with requests.post(
        f"{limited.url}/generate",
        json=body | {"max_tokens": 5000},
        headers={"Authorization": f"Bearer {key}"},
        stream=True,
        timeout=60,
    ) as response:
        for count, _ in enumerate(response.iter_lines()):
            if count == 60:  # 1.2 s or more
                break
    time.sleep(1)
    assert left(ask(limited, key)) < TOKENS - 500


def _leave(server: TriadServer, key: str, body: dict[str, object], after: float) -> None:
    """A client that waits for so many seconds and closes the connection."""
    with suppress(requests.Timeout):
        requests.post(
            f"{server.url}/generate",
            json=body,
            headers={"Authorization": f"Bearer {key}"},
            timeout=after,
        )
    wait_until(lambda: server.gauge("triad_requests_running") == 0)


def test_a_whole_answer_costs_what_was_generated_though_its_client_left(
    limited: TriadServer, key: str
) -> None:
    prompt = json.dumps({"tokens": 5000, "interval_ms": 1})
    _leave(limited, key, {"prompt": prompt, "max_tokens": 5000}, 1.5)
    wait_until(lambda: left(ask(limited, key)) < TOKENS - 700)


def test_a_prompt_costs_its_tokens_though_nothing_came_of_it(
    limited: TriadServer, key: str
) -> None:
    waits = json.dumps({"tokens": 1, "hang_at": 0, "padding": "x" * 3000})
    _leave(limited, key, {"prompt": waits, "stream": True}, 0.5)
    wait_until(lambda: left(ask(limited, key)) < TOKENS - 2500)


def test_each_answer_counts_as_a_request(limited: TriadServer, key: str) -> None:
    body = {"prompt": ["a", "b"], "n": 3, "max_tokens": 1}
    headers = {"Authorization": f"Bearer {key}"}
    limited.post("/v1/completions", body, headers=headers)  # the scripted model refuses them
    refused = ask(limited, key)
    assert refused.status_code == 429
    wait = int(refused.headers["retry-after-ms"]) / 1000
    assert 0.5 < wait <= (6 - BURST) * 60 / REQUESTS


@pytest.mark.parametrize(
    ("path", "body", "cost"),
    [
        ("/tokenize", {"prompt": "x" * 2000}, 2000),
        ("/detokenize", {"tokens": [65] * 2000}, 2000),
        ("/attributions", {"model": "demo", "prompt": "a b c " * 100, "target": "d " * 200}, 500),
    ],
)
def test_what_generates_nothing_costs_what_it_reads(
    limited: TriadServer, key: str, path: str, body: dict[str, object], cost: int
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    began = time.monotonic()
    response = limited.post(path, body, headers=headers)
    assert response.ok, response.text
    assert left(ask(limited, key)) < TOKENS - cost + 150 + refilled(began)


def test_answers_to_one_prompt_cost_it_once(limited: TriadServer, key: str) -> None:
    began = time.monotonic()
    with openai.OpenAI(base_url=f"{limited.url}/v1", api_key=key) as client:
        made = client.completions.create(
            model="scripted", prompt=json.dumps({"tokens": 300}), n=3, max_tokens=300
        )
        assert made.usage is not None
        assert made.usage.total_tokens == 900 + prompt_tokens(300)
        remaining = left(ask(limited, key))
        expected = TOKENS - made.usage.total_tokens
        assert remaining == pytest.approx(expected, abs=50 + refilled(began))


def test_a_chat_and_an_embedding_cost_theirs(limited: TriadServer, key: str) -> None:
    began = time.monotonic()
    with openai.OpenAI(base_url=f"{limited.url}/v1", api_key=key) as client:
        script = json.dumps({"text": "x" * 2000, "piece": 2})
        stream = client.chat.completions.create(
            model="scripted_chat", messages=[{"role": "user", "content": script}], stream=True
        )
        assert sum(len(chunk.choices[0].delta.content or "") for chunk in stream) == 2000
        before = left(ask(limited, key))
        assert before < TOKENS - 1000 - 2000 + refilled(began)  # the prompt has the script in it
        made = client.embeddings.create(model="bert", input=["a text of words " * 4] * 20)
        assert made.usage.total_tokens > 500
        remaining = left(ask(limited, key))
        expected = before - made.usage.total_tokens
        assert remaining == pytest.approx(expected, abs=50 + refilled(began))


def test_a_failure_costs_what_it_took(limited: TriadServer, key: str) -> None:
    failing = {"prompt": json.dumps({"tokens": 2000, "fail_at": 0}), "max_tokens": 2000}
    response = limited.post("/generate", failing, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 500
    assert left(ask(limited, key)) > TOKENS - 100


def test_openai_s_client_comes_back_when_it_is_told_to(limited: TriadServer, key: str) -> None:
    with openai.OpenAI(base_url=f"{limited.url}/v1", api_key=key, max_retries=8) as client:
        began = time.monotonic()
        for _ in range(BURST + 5):
            client.completions.create(model="scripted", prompt=json.dumps({"tokens": 1}))
        assert time.monotonic() - began > 1.5


def test_without_authentication_a_caller_is_an_address(tmp_path: Path) -> None:
    """Which a proxy says that is trusted. What its client says of others counts for nothing."""
    environment = {
        "TRIAD_SERVING__RATE_LIMITING__ENABLED": "true",
        "TRIAD_SERVING__RATE_LIMITING__REQUESTS_PER_MINUTE": "1",
        "TRIAD_SERVING__RATE_LIMITING__BURST_ALLOWANCE": "0",
        "TRIAD_SERVING__TRUSTED_PROXIES": "[127.0.0.0/8]",
    }
    arguments = ("--model", str(SCRIPTED))
    with triad_server(tmp_path / "log", *arguments, environment=environment) as server:
        body = {"prompt": json.dumps({"tokens": 1})}

        def ask(forwarded: str | None) -> int:
            headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
            return server.post("/generate", body, headers=headers).status_code

        assert ask(None) == 200
        refused = server.post("/generate", {"prompt": 5})  # said before the body is read
        assert refused.status_code == 429
        assert 50 < int(refused.headers["Retry-After"]) <= 60
        assert ask("192.0.2.1") == 200
        for same in ("192.0.2.1", "198.51.100.7, 192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1:999"):
            assert ask(same) == 429
        assert ask("2001:db8::1") == 200
        assert ask("[2001:db8::ffff:2]:80") == 429  # of the same network
        assert ask("2001:db8:0:1::1") == 200
        for nobody in ("unknown", "", "not an address", "192.0.2.5, _hidden"):
            assert ask(nobody) == 429  # the proxy itself
        wait_until(
            lambda: server.gauge('triad_http_responses_total{route="other",status="429"}') >= 1
        )
