"""Errors of `/v1` as OpenAI's client knows them, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from backends.contract.facts import ModelFacts
from control_plane.errors import ModelNotFound, ModelNotReady
from control_plane.models.catalog import Model, Models
from tests.support.contract import describe
from tests.support.server import TriadServer, wait_until


def script(**says: Any) -> Any:  # noqa: ANN401
    return [{"role": "user", "content": json.dumps(says)}]


CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
TEXT: dict[str, Any] = {"model": "demo", "prompt": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}

# (route, field, value, the field that is named, what is said)
BAD: list[tuple[str, str, Any, str, str]] = [
    ("chat", "messages", [], "messages", "at least 1 item"),
    ("chat", "messages", "Hi", "messages", "valid list"),
    (
        "chat",
        "messages",
        [{"role": "robot", "content": "x"}],
        "messages[0].role",
        "must be 'system'",
    ),
    ("chat", "messages", [{"role": "user", "content": 5}], "messages[0].content", "a string or"),
    (
        "chat",
        "messages",
        [{"role": "user", "content": [IMAGE]}],
        "messages[0].content",
        "image_url",
    ),
    ("chat", "messages", [{"role": "user"}], "messages", "must have a `content`"),
    ("chat", "max_tokens", 0, "max_tokens", "greater than or equal to 1"),
    ("chat", "max_tokens", 10**6, "max_tokens", "from 1 to 2048"),
    ("chat", "max_completion_tokens", 10**6, "max_completion_tokens", "from 1 to 2048"),
    ("chat", "temperature", -1, "temperature", "greater than or equal to 0"),
    ("chat", "temperature", "hot", "temperature", "valid number"),
    ("chat", "n", 0, "n", "greater than or equal to 1"),
    ("chat", "n", 129, "n", "less than or equal to 128"),
    ("chat", "top_logprobs", 3, "top_logprobs", "`logprobs` as true"),
    ("chat", "logprobs", 3, "logprobs", "valid boolean"),
    ("chat", "stop", [""], "stop[0]", "at least 1 character"),
    ("chat", "stop", ["x"] * 257, "stop", "at most 256"),
    ("chat", "stop", ["x" * 1000] * 9, "stop", "at most 8192 characters together"),
    ("chat", "logit_bias", {"1": 101}, "logit_bias.1", "less than or equal to 100"),
    ("chat", "logit_bias", {"x": 1}, "logit_bias", "token ids"),
    ("chat", "logit_bias", {"99999": 1}, "logit_bias", "from 0 to 2047"),
    ("chat", "stream_options", {"include_usage": True}, "stream_options", "`stream` as true"),
    (
        "chat",
        "response_format",
        {"type": "xml"},
        "response_format",
        "text, json_object or json_schema",
    ),
    ("chat", "guided_json", "{", "guided_json", "valid JSON"),
    ("chat", "guided_regex", "", "guided_regex", "1 to"),
    ("chat", "audio", {"voice": "x"}, "audio", "cannot be honoured"),
    ("chat", "modalities", ["audio"], "modalities", "cannot be honoured"),
    ("chat", "min_tokens", -1, "min_tokens", "greater than or equal to 0"),
    ("chat", "min_tokens", 10**6, "min_tokens", "at most max_tokens"),
    ("chat", "allowed_token_ids", [], "allowed_token_ids", "at least one"),
    ("chat", "allowed_token_ids", [99999], "allowed_token_ids", "from 0 to 2047"),
    ("chat", "bad_words", ["x"], "bad_words", "cannot be honoured"),
    ("chat", "best_of", 2, "best_of", "equal to `n`"),
    ("chat", "max_tokens", "16", "max_tokens", "valid integer"),
    ("chat", "max_tokens", 16.5, "max_tokens", "valid integer"),
    ("chat", "max_completion_tokens", 0, "max_completion_tokens", "greater than or equal to 1"),
    ("chat", "store", True, "store", "cannot be honoured"),
    ("chat", "web_search_options", {}, "web_search_options", "cannot be honoured"),
    ("text", "prompt", "", "prompt", "non-empty string"),
    ("text", "prompt", [], "prompt", "must not be empty"),
    ("text", "prompt", [[]], "prompt", "token ids"),
    ("text", "prompt", [-1], "prompt", "token ids"),
    ("text", "prompt", 5, "prompt", "a non-empty string, a list of token ids"),
    ("text", "prompt_logprobs", 21, "prompt_logprobs", "less than or equal to 20"),
    ("text", "max_completion_tokens", 10**6, "max_completion_tokens", "from 1 to 2048"),
    ("text", "tools", [{}], "tools", "cannot be honoured"),
    ("text", "prompt", [[5, "x"]], "prompt", "token ids"),
    ("text", "prompt", [99999], "prompt", "from 0 to 2047"),
    ("text", "prompt", "x " * 5000, "prompt", "maximum context length is 2048 tokens"),
    ("text", "prompt", ["x"] * 129, "n", "at most 128 answers"),
    ("text", "best_of", 2, "best_of", "equal to `n`"),
    ("text", "suffix", "x", "suffix", "cannot be honoured"),
    ("text", "max_tokens", 0, "max_tokens", "`echo`"),
    ("text", "logprobs", 21, "logprobs", "less than or equal to 20"),
    ("text", "logprobs", True, "logprobs", "valid integer"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "field", "value", "param", "says"), BAD)
def test_a_bad_field_is_named(
    server: TriadServer, route: str, field: str, value: object, param: str, says: str, stream: bool
) -> None:
    if field == "stream_options" and stream:
        return
    path, body = ("/v1/chat/completions", CHAT) if route == "chat" else ("/v1/completions", TEXT)
    response = server.post(path, body | {field: value, "stream": stream})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert says in error["message"]
    assert error["message"].startswith(param)


def test_statuses_are_the_clients_exceptions(client: OpenAI, server: TriadServer) -> None:
    with pytest.raises(BadRequestError) as bad:
        client.chat.completions.create(model="demo", messages=script(), temperature=-1)
    assert bad.value.param == "temperature"
    assert bad.value.request_id == bad.value.response.headers["x-request-id"]
    with pytest.raises(NotFoundError, match="`nobody` does not exist; models: ") as missing:
        client.chat.completions.create(model="nobody", messages=script())
    assert (missing.value.param, missing.value.type) == ("model", "model_not_found")
    with pytest.raises(openai.InternalServerError, match="fails at token 0"):
        client.chat.completions.create(model="scripted", messages=script(fail_at=0))
    for path in ("/v1/nothing", "/v1/chat"):
        assert server.get(path).status_code == 404


@pytest.mark.parametrize("name", ["demo_vllm", "demo_onnx_decoder", "nobody"])
def test_only_models_that_are_served_exist(server: TriadServer, name: str) -> None:
    """Others of the repository are not told from those that are nowhere, and not listed."""
    listed = {model["id"] for model in server.get("/v1/models").json()["data"]}
    assert name not in listed
    asked = [server.post("/v1/completions", TEXT | {"model": name})]
    asked += [server.post("/chat", CHAT | {"model": name}), server.get(f"/v1/models/{name}")]
    asked += [server.get(f"/tokenizer_info?model={name}")]
    for response in asked:
        assert response.status_code == 404
        names = response.json()["error"]["message"].partition("; models: ")[2].split(", ")
        assert set(names) == listed


def test_a_model_that_may_come_back_is_not_missing() -> None:
    class Known(Models):
        def __iter__(self) -> Iterator[Model]:
            yield Model("loading", "loading", expected=True)
            yield Model("died", "died", facts=ModelFacts(type="causal_lm"))
            yield Model("other", "other")

        def add_name(self, name: str) -> None: ...
        def request_refresh(self) -> None: ...
        async def refresh(self) -> None: ...
        async def watch(self, interval: float) -> None: ...

    known = Known("loading")
    for name in (None, "loading", "died"):
        with pytest.raises(ModelNotReady):
            known.language_model(name)
    with pytest.raises(ModelNotFound, match="models: none"):
        known.language_model("other")


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_in_a_stream(client: OpenAI, server: TriadServer, count: int) -> None:
    messages = script(tokens=9, interval_ms=30, fail_at=3)
    asked: Any = {"model": "scripted", "messages": messages, "n": count, "stream": True}
    texts = []
    with pytest.raises(APIError, match="the script fails at token 3") as caught:
        for chunk in client.chat.completions.create(**asked):
            texts += [choice.delta.content for choice in chunk.choices]
    assert caught.value.type == "engine_error"
    assert "0 " in texts
    *_, error, done, end = server.post("/v1/chat/completions", asked).text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["message"].startswith("the script")
    assert (done, end) == ("data: [DONE]", "")


def test_where_one_answer_fails_the_request_fails(client: OpenAI, server: TriadServer) -> None:
    good, bad = json.dumps({"tokens": 500, "interval_ms": 20}), json.dumps({"fail_at": 0})
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="scripted", prompt=[good, bad, good])
    wait_until(lambda: describe(server.grpc, "scripted")["running"] == 0, timeout=2)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("tokens", [0, 2])
def test_closing_a_stream_frees_its_slots(
    client: OpenAI, server: TriadServer, count: int, tokens: int
) -> None:
    delay = 700 if tokens == 0 else 0  # closed before the first token, and after some
    messages = script(tokens=1000, interval_ms=200, delay_ms=2 * delay)
    stream = client.chat.completions.create(
        model="scripted", messages=messages, n=count, stream=True, max_tokens=1000
    )
    for _ in range(tokens * count):
        next(stream)
    assert describe(server.grpc, "scripted")["running"] == count
    stream.close()
    wait_until(lambda: describe(server.grpc, "scripted")["running"] == 0)
    wait_until(lambda: server.gauge("triad_requests_running") == 0)


async def test_a_client_that_gives_up_waiting(
    async_client: AsyncOpenAI, server: TriadServer
) -> None:
    messages = script(tokens=1000, interval_ms=100)
    asked: Any = {"model": "scripted", "messages": messages, "n": 2}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(async_client.chat.completions.create(**asked), 0.5)
    began = time.monotonic()
    while describe(server.grpc, "scripted")["running"]:
        assert time.monotonic() - began < 20  # of 100
        await asyncio.sleep(0.02)
