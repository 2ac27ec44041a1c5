"""`POST /v1/completions` through OpenAI's own Python client, and the routes for tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2 import Environment
from openai import OpenAI
from openai.types import Completion

from tests.support.server import TriadServer

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."


def complete(client: OpenAI, *, stream: bool = False, **fields: Any) -> list[Any]:  # noqa: ANN401
    """The choices of a whole answer; of a stream, put together."""
    asked: Any = {"model": "demo", "temperature": 0, **fields}
    if not stream:
        return list(client.completions.create(**asked).choices)
    choices: dict[int, Any] = {}
    for chunk in client.completions.create(stream=True, **asked):
        for choice in chunk.choices:
            merge(choices.setdefault(choice.index, choice), choice)
    return [choices[index] for index in sorted(choices)]


def merge(into: Any, choice: Any) -> None:  # noqa: ANN401
    if into is choice:
        return
    into.text += choice.text
    into.finish_reason = choice.finish_reason or into.finish_reason
    if choice.logprobs and into.logprobs:
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            getattr(into.logprobs, name).extend(getattr(choice.logprobs, name))


def tokens(server: TriadServer, text: str) -> list[int]:
    ids: list[int] = server.post("/tokenize", {"prompt": text}).json()["tokens"]
    return ids


def test_a_whole_answer(client: OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=FRANCE, temperature=0)
    assert isinstance(answer, Completion)
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (PARIS, "stop", None)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream(client: OpenAI) -> None:
    stream = client.completions.create(
        model="demo",
        prompt=FRANCE,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *texts, last, usage = list(stream)
    assert "".join(chunk.choices[0].text for chunk in texts) == PARIS
    assert last.choices[0].finish_reason == "stop"
    assert (usage.choices, usage.usage is not None) == ([], True)


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_all_kinds(client: OpenAI, server: TriadServer, stream: bool) -> None:
    ids = tokens(server, FRANCE)
    prompts: list[tuple[Any, int]] = [(FRANCE, 1), ([FRANCE], 1), (ids, 1), ([ids], 1)]
    prompts += [([FRANCE, "Tell me a joke", FRANCE], 3), ([ids, ids], 2)]
    for prompt, count in prompts:
        choices = complete(client, prompt=prompt, stream=stream)
        assert [choice.index for choice in choices] == list(range(count))
        assert choices[0].text == choices[-1].text == PARIS


def test_several_answers_to_several_prompts_stand_in_their_order(client: OpenAI) -> None:
    asked: Any = {"prompt": [FRANCE, "Tell me a joke"], "n": 2, "max_tokens": 40}
    answer = client.completions.create(model="demo", temperature=0, **asked)
    texts = [choice.text for choice in answer.choices]
    assert texts[0] == texts[1] == PARIS
    assert texts[2] == texts[3] != PARIS
    assert answer.usage is not None
    separate = [
        client.completions.create(model="demo", prompt=prompt, max_tokens=1).usage
        for prompt in asked["prompt"]
    ]
    assert answer.usage.prompt_tokens == sum(usage.prompt_tokens for usage in separate if usage)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: OpenAI, stream: bool) -> None:
    (choice,) = complete(client, prompt=FRANCE, logprobs=2, stream=stream)
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == PARIS
    for token, logprob, top, offset in zip(
        logprobs.tokens,
        logprobs.token_logprobs,
        logprobs.top_logprobs,
        logprobs.text_offset,
        strict=True,
    ):
        assert top[token] == logprob <= 0
        assert len(top) == 2  # greedy: the token is the first of the two
        assert PARIS[offset:].startswith(token)


@pytest.mark.parametrize("stream", [False, True])
def test_echo(client: OpenAI, server: TriadServer, stream: bool) -> None:
    for prompt in (FRANCE, tokens(server, FRANCE)):
        (choice,) = complete(client, prompt=prompt, echo=True, stream=stream)
        assert choice.text == FRANCE + PARIS


@pytest.mark.parametrize("limit", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored(client: OpenAI, stream: bool, limit: int) -> None:
    """As evaluation harnesses do it: `echo` with `logprobs`, and perhaps nothing generated."""
    (choice,) = complete(
        client, prompt=FRANCE, echo=True, logprobs=1, max_tokens=limit, stream=stream
    )
    logprobs = choice.logprobs
    assert choice.text == FRANCE + ("" if limit == 0 else "The capital of")
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert choice.text[offset:].startswith(token)
    assert choice.finish_reason == "length"


def test_nothing_generated_counts_nothing(client: OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=FRANCE, echo=True, max_tokens=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_a_part_of_a_character_is_named_by_its_bytes(client: OpenAI, server: TriadServer) -> None:
    ids = tokens(server, "\u4f60")  # three bytes, and a token each
    assert len(ids) > 1
    bias = {str(ids[-1]): 100}
    (choice,) = complete(client, prompt="a", logprobs=0, logit_bias=bias, max_tokens=1)
    assert choice.logprobs.tokens[0].startswith("bytes:\\x")


def test_tokens_and_back(server: TriadServer) -> None:
    body = server.post("/tokenize", {"prompt": FRANCE, "return_token_strs": True}).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["token_strs"][:2] == ["What", "Ġis"]  # as the vocabulary has them
    assert body["max_model_len"] == 2048
    back = server.post("/detokenize", {"tokens": body["tokens"]}).json()
    assert back == {"prompt": FRANCE}


def test_tokens_of_a_chat(server: TriadServer) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = server.post("/tokenize", {"messages": messages}).json()
    text = server.post("/detokenize", {"tokens": body["tokens"]}).json()["prompt"]
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    without = {"messages": messages, "add_generation_prompt": False}
    assert server.post("/tokenize", without).json()["count"] < body["count"]


def test_tokens_of_other_models(server: TriadServer) -> None:
    for model in ("demo_onnx", "scripted"):
        body = {"model": model, "prompt": "Hi"}
        ids = server.post("/tokenize", body).json()["tokens"]
        assert len(ids) >= 1
    assert server.post("/detokenize", {"model": "demo_onnx", "tokens": []}).json() == {"prompt": ""}


def test_the_default_model_needs_no_name(server: TriadServer) -> None:
    body = server.post("/v1/completions", {"prompt": FRANCE, "temperature": 0}).json()
    assert (body["model"], body["choices"][0]["text"]) == ("demo", PARIS)


def test_models(client: OpenAI) -> None:
    cards = {card.id: card for card in client.models.list()}
    assert {"demo", "demo_onnx", "scripted"} <= cards.keys()
    assert cards["demo"].object == "model"
    assert cards["demo"].created > 1_700_000_000
    assert client.models.retrieve("demo") == cards["demo"]


def test_a_model_id_may_hold_slashes(server: TriadServer) -> None:
    for path in ("Qwen/Qwen2.5-0.5B", "a%2Fb"):
        response = server.get(f"/v1/models/{path}")
        assert response.status_code == 404
        assert path.replace("%2F", "/") in response.json()["error"]["message"]


def test_onnx_answers_the_same(client: OpenAI) -> None:
    (choice,) = complete(client, model="demo_onnx", prompt=FRANCE, logprobs=1)
    assert choice.text == PARIS
    assert "".join(choice.logprobs.tokens) == PARIS


def test_the_contract_is_documented(server: TriadServer) -> None:
    paths = json.loads(server.get("/openapi.json").text)["paths"]
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize"):
        assert path in paths


def test_what_the_tokenizer_is(server: TriadServer) -> None:
    """As lm-evaluation-harness reads it, to apply the chat template by itself."""
    for model in ("demo", "demo_onnx"):
        info = server.get(f"/tokenizer_info?model={model}").json()
        assert (info["eos_token"], info["bos_token"]) == ("<|im_end|>", None)
        assert info["model_max_length"] == 2048
        assert info["added_tokens_decoder"]["2"] == "<|im_end|>"
        messages = [{"role": "user", "content": "Hi"}]
        rendered = (
            Environment()
            .from_string(info["chat_template"])
            .render(messages=messages, add_generation_prompt=True)
        )
        ids = server.post("/tokenize", {"model": model, "messages": messages}).json()["tokens"]
        assert tokens(server, rendered) == ids
        assert "/" not in info["tokenizer_class"]
        assert "weights" not in json.dumps({**info, "chat_template": ""})
