"""Every route in this process, in front of a model client in memory."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import pytest

from control_plane.api import errors
from control_plane.app import create_app
from control_plane.auth.keys import KeyStore
from control_plane.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    PayloadTooLarge,
    TriadError,
    Unavailable,
)
from control_plane.inference.requests import (
    Attribute,
    DescribeTokenizer,
    Detokenize,
    Embed,
    Generate,
    Profile,
    ReadMetrics,
    Tokenize,
)
from control_plane.inference.responses import Delta, Embeddings, Tokens
from tests.support.gateway import events, fake_client, gateway, in_process, sent, settings

MESSAGES = [{"role": "user", "content": "Hi"}]


async def test_generate() -> None:
    client = fake_client()
    async with gateway(client) as http:
        response = await http.post("/generate", json={"prompt": "Hi", "max_tokens": 7})
        assert response.status_code == 200
        body = response.json()
        assert (body["text"], body["tokens_generated"], body["finish_reason"]) == (
            "Hello world",
            3,
            "stop",
        )
        assert body["request_id"] == response.headers["x-request-id"]
        assert body["metadata"] == {"model_name": "demo", "backend": "fake"}
    (request,) = sent(client)
    assert isinstance(request, Generate)
    assert request.sampling["max_tokens"] == 7


@pytest.mark.parametrize("path", ["/generate", "/chat"])
async def test_a_stream_of_events(path: str) -> None:
    prompt = {"prompt": "Hi"} if path == "/generate" else {"messages": MESSAGES}
    async with gateway() as http:
        response = await http.post(path, json={"stream": True, **prompt})
    assert response.headers["content-type"].startswith("text/event-stream")
    first, second, last = events(response)
    assert (first["text"], first["tokens_generated"]) == ("Hello", 1)
    assert (second["text"], second["tokens_generated"]) == (" world", 3)
    assert (last["final"], last["finish_reason"]) == (True, "stop")


async def test_a_failure_in_a_stream_is_its_last_event() -> None:
    client = fake_client()
    client.on(Generate, lambda _: [Delta("a", 1), EngineFailed("it broke")])
    async with gateway(client) as http:
        response = await http.post("/generate", json={"prompt": "Hi", "stream": True})
        assert response.status_code == 200
        assert events(response)[-1]["error"]["message"] == "it broke"
        nonsense: Any = 5
        client.on(Generate, lambda _: [Delta("a", 1), nonsense])  # a defect of ours
        response = await http.post("/generate", json={"prompt": "Hi", "stream": True})
        assert events(response)[-1]["error"]["message"] == "internal error"


async def test_chat() -> None:
    client = fake_client()
    async with gateway(client) as http:
        response = await http.post("/chat", json={"messages": MESSAGES})
    assert response.json()["message"] == {"role": "assistant", "content": "Hello world"}
    (request,) = sent(client)
    assert isinstance(request, Generate)
    assert request.prompt == MESSAGES


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("stop_sequences: bad", param="stop_sequences"), 400),
        (ContextLengthExceeded("prompt: too long", param="prompt"), 400),
        (PayloadTooLarge("too large"), 413),
        (Overloaded("full"), 503),
        (Unavailable("away"), 503),
        (ModelNotReady("gone"), 503),
        (DeadlineExceeded(), 504),
        (EngineFailed("broke"), 500),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_errors_of_a_model(error: TriadError, status: int, path: str) -> None:
    client = fake_client()
    client.on(Generate, lambda _: [error])
    async with gateway(client) as http:
        response = await http.post(path, json={"prompt": "Hi"})
    body = response.json()["error"]
    assert response.status_code == status == error.status
    assert ("retry-after" in response.headers) is (status == 503)
    assert body["type"] == error.type
    if isinstance(error, InvalidRequest) and error.param == "stop_sequences":
        assert body["param"] == ("stop" if path.startswith("/v1") else "stop_sequences")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"prompt": 5}', "prompt"),
        (b'{"prompt": "a", "max_tokens": 0}', "max_tokens"),
        (b'{"prompt": "a", "temperature": "hot"}', "temperature"),
        (b'{"prompt": "a", "stop_sequences": [""]}', "stop_sequences"),
        (b'{"prompt": "' + b"x" * 2000 + b'"}', None),
        (b"[" * 100, None),
    ],
)
async def test_bad_bodies(body: bytes, param: str | None) -> None:
    async with gateway(max_body_size=1000) as http:
        response = await http.post(
            "/generate", content=body, headers={"content-type": "application/json"}
        )
    assert response.status_code in (400, 413)
    if param is not None:
        assert response.json()["error"]["param"].startswith(param)


async def test_a_defect_is_answered_without_its_details() -> None:
    client = fake_client()

    def broken(_: Generate) -> list[Delta]:
        raise RuntimeError("secret")

    client.on(Generate, broken)
    async with gateway(client) as http:
        response = await http.post("/generate", json={"prompt": "Hi"})
        assert response.status_code == 500
        assert "secret" not in response.text
        assert response.headers["x-request-id"]


async def test_an_api_with_errors_of_its_own_shape() -> None:
    """Whoever raises them: a route, the router, or a middleware."""
    app = create_app(settings(), client=fake_client())
    errors.install(app, {"/other/": lambda error, id_: {"kind": error.type, "id": id_}})

    @app.get("/other/route")
    async def fails() -> None:
        raise Overloaded("full")

    @app.get("/other/defect")
    async def breaks() -> None:
        raise RuntimeError("secret")

    async with in_process(app) as http:
        for path, status, kind in (
            ("/other/route", 503, "overloaded"),
            ("/other/defect", 500, "internal_error"),
            ("/other/none", 404, "not_found"),
        ):
            response = await http.get(path)
            assert response.status_code == status
            assert response.json() == {"kind": kind, "id": response.headers["x-request-id"]}
        assert "error" in (await http.get("/none")).json()


async def test_routes_and_methods_that_are_not_there() -> None:
    async with gateway() as http:
        assert (await http.get("/nothing")).status_code == 404
        assert (await http.put("/generate", json={})).status_code == 405
        assert (await http.head("/health")).content == b""
        assert (await http.get("/openapi.json")).json()["info"]["title"] == "Triad"


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_documentation_pages_need_no_other_server(page: str) -> None:
    async with gateway() as http:
        html = (await http.get(page)).text
        assets = re.findall(r'(?:src|href)="([^"]+)"', html)
        assert any(asset.endswith(".js") for asset in assets)
        for asset in assets:
            response = await http.get(asset)
            assert (asset[0], response.status_code) == ("/", 200)


# --- /v1 ----------------------------------------------------------------------------------------


async def test_completions() -> None:
    client = fake_client()
    async with gateway(client) as http:
        body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 4, "seed": 1}
        response = await http.post("/v1/completions", json=body)
        answer = response.json()
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert {choice["text"] for choice in answer["choices"]} == {"Hello world"}
        assert answer["usage"] == {
            "prompt_tokens": 6,
            "completion_tokens": 12,
            "total_tokens": 18,
        }
        streamed = await http.post(
            "/v1/completions",
            json={"prompt": "a", "stream": True, "stream_options": {"include_usage": True}},
        )
        *chunks, usage, done = events(streamed)
        assert done == "[DONE]"
        assert usage["usage"]["completion_tokens"] == 3
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello world"
    seeds = [r.sampling.get("seed") for r in sent(client) if isinstance(r, Generate)]
    assert len(set(seeds[:4])) == 4


async def test_chat_completions() -> None:
    client = fake_client(chat={"keeps_texts": True})
    async with gateway(client) as http:
        response = await http.post("/v1/chat/completions", json={"messages": MESSAGES})
        (choice,) = response.json()["choices"]
        assert choice["message"]["content"] == "Hello world"
        streamed = await http.post(
            "/v1/chat/completions", json={"messages": MESSAGES, "stream": True}
        )
        *chunks, done = events(streamed)
        assert done == "[DONE]"
        texts = [c["choices"][0]["delta"].get("content") or "" for c in chunks]
        assert "".join(texts) == "Hello world"


async def test_one_failure_of_several_answers_is_the_requests() -> None:
    client, numbers = fake_client(), iter(range(9))

    def second_fails(_: Generate) -> list[Any]:
        return [EngineFailed("broke")] if next(numbers) == 1 else [asyncio.Event()]

    client.on(Generate, second_fails)
    async with gateway(client) as http:
        response = await http.post("/v1/completions", json={"prompt": "a", "n": 3})
    assert response.status_code == 500
    streams = [stream for stream in client.streams if stream.timeout > 30]
    assert all(stream.cancelled for stream in streams)


async def test_embeddings() -> None:
    client = fake_client(type="embedding", embedding_dimension=2)
    client.on(Embed, lambda r: [Embeddings(np.ones((len(r.rows), 2), np.float32), 7)])
    async with gateway(client) as http:
        response = await http.post("/v1/embeddings", json={"input": ["a", "b"]})
        answer = response.json()
        assert [row["embedding"] for row in answer["data"]] == [[1, 1], [1, 1]]
        assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
        refused = await http.post("/v1/embeddings", json={"input": "a", "dimensions": 5})
        assert refused.json()["error"]["param"] == "dimensions"
        not_text = await http.post("/generate", json={"prompt": "a"})
        assert not_text.status_code == 400


async def test_tokenizer_routes() -> None:
    client = fake_client()
    client.on(Tokenize, lambda _: [Tokens([1, 2], ["a", "b"], ["x", "y"])])
    client.on(Detokenize, lambda _: ["ab"])
    client.on(DescribeTokenizer, lambda _: [{"tokenizer_class": "Fast", "more": 1}])
    async with gateway(client) as http:
        tokens = await http.post("/tokenize", json={"prompt": "ab", "return_token_strs": True})
        assert tokens.json() == {
            "count": 2,
            "max_model_len": 1000,
            "tokens": [1, 2],
            "token_strs": ["x", "y"],
        }
        assert (await http.post("/tokenize", json={"messages": MESSAGES})).json()["count"] == 2
        assert (await http.post("/tokenize", json={})).status_code == 400
        assert (await http.post("/detokenize", json={"tokens": [1, 2]})).json() == {"prompt": "ab"}
        info = await http.get("/tokenizer_info")
        assert (info.json()["tokenizer_class"], info.json()["more"]) == ("Fast", 1)


async def test_attributions_and_profiles() -> None:
    client = fake_client()
    answer = {
        "prompt_tokens": [
            {"token": "a", "token_id": 1, "gradient_x_input": 0.5, "gradient_norm": 1.0}
        ],
        "target": "b",
        "target_tokens": 1,
        "loss": 2.0,
    }
    client.on(Attribute, lambda _: [answer])
    client.on(Tokenize, lambda _: [Tokens([1], ["a"], ["a"])])
    client.on(Profile, lambda _: [b"trace"])
    async with gateway(client, profiling=True) as http:
        response = await http.post("/attributions", json={"prompt": "a"})
        assert response.status_code == 200, response.text
        assert response.json()["loss"] == 2.0
        trace = await http.post("/profile", json={"prompt": "a"})
        assert trace.content == b"trace"
        assert "trace-req_" in trace.headers["content-disposition"]
    async with gateway(client) as http:
        assert (await http.post("/profile", json={"prompt": "a"})).status_code == 404


# --- information --------------------------------------------------------------------------------


async def test_health_follows_the_default_model() -> None:
    client = fake_client(gpus=[{"total": 2**34, "used": 2**33, "free": 2**33}])
    async with gateway(client, triton={"health_check_interval": 0.01}) as http:
        healthy = await http.get("/health")
        assert healthy.status_code == 200
        body = healthy.json()
        assert (body["status"], body["gpu_count"]) == ("healthy", 1)
        assert body["gpu_memory"] == {"total": "16GB", "used": "8GB", "free": "8GB"}
        assert (await http.get("/health/ready")).status_code == 200
        client.models["demo"].ready = False
        for _ in range(500):
            await asyncio.sleep(0.01)
            if (await http.get("/health/ready")).status_code == 503:
                break
        unhealthy = await http.get("/health")
        assert (unhealthy.status_code, unhealthy.json()["status"]) == (503, "unhealthy")
        assert (await http.get("/health/live")).status_code == 200
        assert (await http.post("/generate", json={"prompt": "a"})).status_code == 503


async def test_models_stats_and_metrics() -> None:
    client = fake_client("demo", "other", parameters=494_000_000, metrics=True)
    client.on(ReadMetrics, lambda r: [f'engine_steps{{model="{r.model}"}} 3\n'])
    async with gateway(client, models=["other"]) as http:
        await http.post("/generate", json={"prompt": "a"})
        models = (await http.get("/models")).json()
        assert [model["name"] for model in models["models"]] == ["demo", "other"]
        assert models["models"][0]["parameters"] == "494M"
        assert models["default_model"] == "demo"
        listed = (await http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["demo", "other"]
        assert (await http.get("/v1/models/demo")).json()["id"] == "demo"
        assert (await http.get("/v1/models/none")).status_code == 404
        stats = (await http.get("/stats")).json()
        assert (stats["request_count"], stats["total_tokens_generated"]) == (1, 3)
        metrics = (await http.get("/metrics")).text
        assert 'triad_requests_total{model="demo",outcome="stop"} 1.0' in metrics
        assert 'engine_steps{model="other"} 3.0' in metrics
        assert 'triad_model_ready{model="demo"} 1.0' in metrics


async def test_models_that_no_request_can_name_are_not_listed() -> None:
    client = fake_client("demo", "other", "graph")
    client.models["graph"].parameters = None  # a plain graph, which a model calls
    client.models["other"].ready = False  # in the repository, and not loaded
    async with gateway(client) as http:
        listed = (await http.get("/models")).json()["models"]
        assert [model["name"] for model in listed] == ["demo"]


async def test_engines_that_do_not_answer_are_left_out_of_the_metrics() -> None:
    client = fake_client(metrics=True)
    client.on(ReadMetrics, lambda _: [DeadlineExceeded()])
    async with gateway(client) as http:
        assert "triad_model_ready" in (await http.get("/metrics")).text


# --- middleware ---------------------------------------------------------------------------------


async def test_keys_are_asked_for(tmp_path: Any) -> None:  # noqa: ANN401
    store = KeyStore(tmp_path / "keys.db")
    key = store.create("someone", ["llm:generate"])
    other = store.create("other", ["other"])
    store.close()
    auth = {"enabled": True, "auth_type": "api_key", "key_store": str(tmp_path / "keys.db")}
    async with gateway(auth=auth) as http:

        async def status(**headers: str) -> int:
            body = {"prompt": "a"}
            return (await http.post("/generate", json=body, headers=headers)).status_code

        assert await status() == 401
        assert await status(**{"X-API-Key": key}) == 200
        assert await status(**{"X-API-Key": other}) == 403
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/models")).status_code == 401


async def test_limits_of_requests() -> None:
    limits = {"enabled": True, "requests_per_minute": 60, "burst_allowance": 2}
    async with gateway(rate_limiting=limits) as http:
        codes = [(await http.post("/generate", json={"prompt": "a"})).status_code for _ in range(4)]
        assert codes[:2] == [200, 200]
        assert 429 in codes
        assert (await http.get("/health")).status_code == 200


async def test_limits_of_tokens() -> None:
    limits = {"enabled": True, "tokens_per_minute": 100}
    client = fake_client()
    client.on(Generate, lambda _: [Delta("a", 90, "stop", prompt_tokens=30)])
    async with gateway(client, rate_limiting=limits) as http:
        first = await http.post("/generate", json={"prompt": "a"})
        assert first.status_code == 200
        second = await http.post("/generate", json={"prompt": "a"})
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1


async def test_answers_are_cached_by_what_they_depend_on() -> None:
    client, numbers = fake_client(), iter(range(100))
    client.on(Generate, lambda _: [Delta(str(next(numbers)), 1, "stop")])
    async with gateway(client, caching={"enabled": True, "cache_type": "memory"}) as http:

        async def text(headers: dict[str, str] | None = None, **fields: Any) -> str:  # noqa: ANN401
            body = {"prompt": "a", "temperature": 0} | fields
            response = await http.post("/generate", json=body, headers=headers)
            return str(response.json()["text"])

        first = await text()
        assert await text() == first
        assert await text(prompt="b") != first
        assert await text(max_tokens=3) != first
        assert await text(temperature=0.5) != await text(temperature=0.5)
        assert await text({"cache-control": "no-store"}) != first
        newer = await text({"cache-control": "no-cache"})
        assert await text() == newer != first
        streamed = await http.post(
            "/generate", json={"prompt": "a", "temperature": 0, "stream": True}
        )
        assert events(streamed)[0]["text"] == newer
        metrics = (await http.get("/metrics")).text
        assert 'triad_cache_requests_total{result="hit"}' in metrics


async def test_an_unfinished_answer_is_not_cached() -> None:
    client, numbers = fake_client(), iter(range(100))
    client.on(Generate, lambda _: [Delta(str(next(numbers)), 1), EngineFailed("broke")])
    async with gateway(client, caching={"enabled": True, "cache_type": "memory"}) as http:
        body = {"prompt": "a", "temperature": 0}
        assert (await http.post("/generate", json=body)).status_code == 500
        client.on(Generate, lambda _: [Delta("whole", 1, "stop")])
        assert (await http.post("/generate", json=body)).json()["text"] == "whole"


async def test_pages_of_other_origins() -> None:
    async with gateway(cors={"allow_origins": ["http://page"]}) as http:
        headers = {"origin": "http://page", "access-control-request-method": "POST"}
        allowed = await http.options("/generate", headers=headers)
        assert allowed.headers["access-control-allow-origin"] == "http://page"
        other = await http.options("/generate", headers=headers | {"origin": "http://other"})
        assert "access-control-allow-origin" not in other.headers


async def test_request_ids() -> None:
    async with gateway() as http:
        one = await http.get("/health", headers={"x-request-id": "mine-1"})
        assert one.headers["x-request-id"] == "mine-1"
        odd = await http.get("/health", headers={"x-request-id": "a\tb" * 200})
        assert odd.headers["x-request-id"] != "a\tb" * 200


async def test_the_operators_limits() -> None:
    validation = {"max_tokens": 5, "max_prompt_length": 4}
    async with gateway(validation=validation) as http:
        long = await http.post("/generate", json={"prompt": "abcde", "max_tokens": 5})
        assert long.json()["error"]["param"] == "prompt"
        many = await http.post("/generate", json={"prompt": "abcd", "max_tokens": 6})
        assert many.json()["error"]["param"] == "max_tokens"
