"""Log likelihoods as evaluation harnesses ask for them, and as transformers computes them.

The requests are those of lm-evaluation-harness (``local-completions``): it sums
``token_logprobs[ctxlen:-1]``, so that the last entry has to be that of the generated token.
"""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import requests
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.reference import Reference
from tests.support.server import WEIGHTS, TriadServer

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
FRANCE, WHO = CHAT.format("What is the capital of France?"), CHAT.format("Who are you?")
PAIRS = [
    (FRANCE, "The capital of France is Paris."),  # after which the model ends
    (FRANCE, "The capital of France is Rome."),
    (FRANCE, "Paris"),
    (WHO, "The capital of France is Paris."),
    ("Hot 🌶️ ", "é 你好 x"),
    ("x", " y"),
    ("x", ""),  # one token alone
]


@pytest.fixture(scope="module")
def reference() -> Reference:
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    return Reference(AutoTokenizer.from_pretrained(WEIGHTS), model)


def encoded(reference: Reference, pair: tuple[str, str]) -> tuple[list[int], int]:
    """The ids of both parts, and how many are the context's."""
    context, continuation = (reference.tokenizer(text).input_ids for text in pair)
    return context + continuation, len(context)


def log_likelihoods(reference: Reference, ids: list[int]) -> list[float]:
    """Of each token but the first."""
    with torch.inference_mode():
        logprobs = reference.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logprobs[at, id_]) for at, id_ in enumerate(ids[1:])]


@pytest.mark.parametrize("limit", [1, 0])
def test_the_requests_of_lm_evaluation_harness(
    running: TriadServer, model: str, reference: Reference, limit: int
) -> None:
    """All continuations in one request, as lists of token ids."""
    parts = [encoded(reference, pair) for pair in PAIRS]
    body = {"model": model, "prompt": [ids for ids, _ in parts], "max_tokens": limit}
    body |= {"echo": True, "logprobs": 1, "temperature": 0, "seed": 1234}
    answer = running.post("/v1/completions", body).json()
    entries = 0
    for (ids, context), choice in zip(parts, answer["choices"], strict=True):
        logprobs = choice["logprobs"]
        scores = logprobs["token_logprobs"]
        assert scores[0] is None
        expected = log_likelihoods(reference, ids)
        assert scores[1 : len(ids)] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        summed = sum(scores[context : len(scores) - limit])
        assert summed == pytest.approx(sum(expected[context - 1 :]), rel=1e-4, abs=1e-4)
        for score, top in zip(scores[1:], logprobs["top_logprobs"][1:], strict=True):
            assert score in top.values()
        entries += len(scores)
    assert entries == answer["usage"]["total_tokens"]
    assert answer["usage"]["completion_tokens"] == limit * len(parts)


@pytest.mark.parametrize("stream", [False, True])
def test_each_token_stands_where_its_offset_says(
    running: TriadServer, model: str, stream: bool
) -> None:
    """The one that ends the answer has no text, and stands at the text's end."""
    body = {"model": model, "max_tokens": 4, "echo": True, "logprobs": 0, "temperature": 0}
    for context, continuation in PAIRS:
        asked = body | {"prompt": context + continuation, "stream": stream}
        text, tokens, offsets, reason = together(running.post("/v1/completions", asked), stream)
        assert (offsets[0], offsets) == (0, sorted(offsets))
        spans = [text[a:b] for a, b in pairwise([*offsets, len(text)])]
        for token, span in zip(tokens, spans, strict=True):
            assert token == span or token.startswith("bytes:")
        if context == FRANCE and continuation.endswith("Paris."):
            assert (tokens[-1], offsets[-1], reason) == ("", len(text), "stop")


def together(
    response: requests.Response, stream: bool
) -> tuple[str, list[str], list[int], str | None]:
    """Text, tokens, offsets and finish reason."""
    if stream:
        events = [json.loads(block[6:]) for block in response.text.split("\n\n")[:-2]]
        choices = [event["choices"][0] for event in events]
    else:
        choices = response.json()["choices"]
    logprobs = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    return (
        "".join(choice["text"] for choice in choices),
        [token for part in logprobs for token in part["tokens"]],
        [offset for part in logprobs for offset in part["text_offset"]],
        choices[-1]["finish_reason"],
    )
