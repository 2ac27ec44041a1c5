"""The same tokens through REST, `tritonclient`, and plain `generate`; and nobody else's."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.contract import infer
from tests.support.reference import MAX_TOKENS, PROMPTS, Reference
from tests.support.server import WEIGHTS, TriadServer


@pytest.fixture(scope="module")
def reference() -> Reference:
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    return Reference(AutoTokenizer.from_pretrained(WEIGHTS), model)


@pytest.fixture(scope="module")
def expected(reference: Reference) -> dict[str, list[int]]:
    return {prompt: reference.generate(prompt) for prompt in PROMPTS}


def through_rest(server: TriadServer, model: str, prompt: str) -> dict[str, Any]:
    body = {"model": model, "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0}
    answer: dict[str, Any] = server.post("/generate", body).json()
    return answer


def through_sse(server: TriadServer, model: str, prompt: str) -> str:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    text = ""
    with server.post("/generate", body, stream=True) as response:
        for line in response.iter_lines():
            if line:
                text += json.loads(line.removeprefix(b"data: "))["text"]
    return text


def through_grpc(server: TriadServer, model: str, prompt: str, *, stream: bool) -> list[int]:
    return infer(
        server.grpc,
        model,
        text_input=prompt,
        stream=stream,
        exclude_input_in_output=True,
        return_token_ids=True,
        sampling_parameters={"temperature": 0, "max_tokens": MAX_TOKENS},
    ).token_ids


def test_alone(
    running: TriadServer, model: str, reference: Reference, expected: dict[str, list[int]]
) -> None:
    assert len(PROMPTS) >= 20
    for number, (prompt, ids) in enumerate(expected.items()):
        answer = through_rest(running, model, prompt)
        assert answer["text"] == reference.text(ids)
        assert answer["tokens_generated"] == len(ids)
        ended = ids[-1] in reference.model.generation_config.eos_token_id
        assert answer["finish_reason"] == ("stop" if ended else "length")
        if number % 4 == 0:
            assert through_grpc(running, model, prompt, stream=False) == ids


def test_among_16_mixed_requests(
    running: TriadServer, model: str, reference: Reference, expected: dict[str, list[int]]
) -> None:
    """All four ways at once, in turn."""

    def ask(number: int) -> None:
        prompt = PROMPTS[number % len(PROMPTS)]
        ids = expected[prompt]
        match number // len(PROMPTS):
            case 0:
                assert through_rest(running, model, prompt)["text"] == reference.text(ids)
            case 1:
                assert through_sse(running, model, prompt) == reference.text(ids)
            case way:
                assert through_grpc(running, model, prompt, stream=way == 2) == ids

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        done = list(pool.map(ask, range(4 * len(PROMPTS))))
    assert len(done) == 4 * len(PROMPTS)


OPTIONS = {"temperature": 0.9, "top_k": 50, "top_p": 0.9}


@pytest.fixture(scope="module")
def sampled(reference: Reference) -> Callable[[str, int, float], list[int]]:
    """Return what `generate` samples for a prompt with a seed and a repetition penalty."""

    @cache
    def generate(prompt: str, seed: int, penalty: float) -> list[int]:
        torch.manual_seed(seed)
        options = OPTIONS | {"repetition_penalty": penalty}
        return reference.generate(prompt, do_sample=True, **options)

    return generate


@pytest.mark.parametrize("model", ["demo", "demo_onnx"], indirect=True)  # vLLM draws otherwise
@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_seeds_and_penalties_give_what_generate_gives(
    running: TriadServer,
    model: str,
    reference: Reference,
    sampled: Callable[[str, int, float], list[int]],
    penalty: float,
) -> None:
    options = OPTIONS | {"repetition_penalty": penalty}
    for seed, prompt in enumerate(PROMPTS[:6]):
        ids = sampled(prompt, seed, penalty)
        body = {"model": model, "prompt": prompt, "max_tokens": MAX_TOKENS, "seed": seed, **options}
        assert running.post("/generate", body).json()["text"] == reference.text(ids)


def test_64_concurrent_requests_get_their_own_text(server: TriadServer) -> None:
    """Each request's tokens say whose they are: it counts up from a number of its own."""

    def ask(number: int) -> None:
        first = 1000 * number
        body = {
            "model": "scripted",
            "prompt": json.dumps({"tokens": 40, "interval_ms": 5, "first": first}),
            "stream": True,
        }
        text, request_ids = "", set()
        with server.post("/generate", body, stream=True) as response:
            for line in response.iter_lines():
                if line:
                    event = json.loads(line.removeprefix(b"data: "))
                    text += event["text"]
                    request_ids.add(event["request_id"])
        assert text == "".join(f"{i} " for i in range(first, first + 40))
        assert request_ids == {response.headers["X-Request-Id"]}

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert len(list(pool.map(ask, range(64)))) == 64
