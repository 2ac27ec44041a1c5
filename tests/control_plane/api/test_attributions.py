"""``POST /attributions`` through the real Triton."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.contract import describe
from tests.support.server import TriadServer, wait_until

FRANCE = "What is the capital of France?"


def test_the_word_that_decides_the_answer_counts_most(server: TriadServer) -> None:
    answer = server.post("/attributions", {"prompt": FRANCE, "target": "The capital of France is"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == [
        *("request_id", "model_name", "prompt_tokens", "target", "target_tokens", "loss")
    ]
    assert (body["model_name"], body["request_id"]) == ("demo", answer.headers["X-Request-Id"])
    assert "".join(token["token"] for token in body["prompt_tokens"]) == FRANCE
    assert body["target"] == "The capital of France is"
    assert 0 < body["loss"] < 5
    for token in body["prompt_tokens"]:
        assert token["gradient_norm"] > 0
        assert math.isfinite(token["gradient_x_input"])
    words = {token["token"].strip(): token["gradient_norm"] for token in body["prompt_tokens"]}
    assert words["France"] > words["is"]


def test_without_a_target_the_models_own_answer_is_attributed(server: TriadServer) -> None:
    made = server.post("/generate", {"prompt": FRANCE, "temperature": 0, "max_tokens": 64}).json()
    body = server.post("/attributions", {"prompt": FRANCE}).json()
    assert body["target"] == made["text"]
    assert body["loss"] < 0.5  # what it says itself is what it finds likely
    unlikely = server.post("/attributions", {"prompt": FRANCE, "target": " zebra zebra"}).json()
    assert unlikely["loss"] > body["loss"] + 2


def test_many_at_once_get_their_own(server: TriadServer) -> None:
    prompts = [f"What is {word}?" for word in ("rain", "a model", "the sun", "Python", "AI")] * 4
    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(lambda p: server.post("/attributions", {"prompt": p}).json(), prompts)
        )
    for prompt, answer in zip(prompts, answers, strict=True):
        assert "".join(token["token"] for token in answer["prompt_tokens"]) == prompt
    wait_until(lambda: describe(server.grpc, "demo")["running"] == 0)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": FRANCE, "target": ""}, "target"),
        ({"prompt": FRANCE, "target": 5}, "target"),
        ({"prompt": "word " * 1500}, "prompt"),
        ({"prompt": FRANCE, "target": "word " * 1500}, "target"),
        ({"prompt": FRANCE, "model": "scripted"}, "prompt"),
    ],
)
def test_what_cannot_be_is_a_400_that_names_the_field(
    server: TriadServer, body: dict[str, Any], param: str
) -> None:
    response = server.post("/attributions", body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_an_unknown_model_is_a_404(server: TriadServer) -> None:
    assert server.post("/attributions", {"prompt": "a", "model": "none"}).status_code == 404
