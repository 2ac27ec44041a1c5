"""`/health`, `/stats`, `/models`, `/metrics`, and the OpenAPI document."""

from __future__ import annotations

import json

import pytest

from control_plane.api.models import parameter_count
from control_plane.observability.stats import uptime
from tests.conftest import SHARED_MODELS
from tests.support.server import TriadServer


def test_health(server: TriadServer) -> None:
    response = server.get("/health")
    assert response.status_code == 200
    body = response.json()
    gpus = body.pop("gpu_count")
    memory = body.pop("gpu_memory")
    assert body == {
        "status": "healthy",
        "is_loaded": True,
        "is_ready": True,
        "backend_type": "pytorch",
        "model_loaded": True,
        "tokenizer_loaded": True,
        "gpu_available": gpus > 0,
    }
    assert set(memory) == {"total", "used", "free"}
    assert all(value.endswith("GB") for value in memory.values())


def test_probes(server: TriadServer) -> None:
    assert server.get("/health/live").json() == {"status": "alive"}
    assert server.get("/health/ready").json() == {"status": "ready"}


def test_models(server: TriadServer) -> None:
    body = server.get("/models").json()
    assert body["default_model"] == "demo"
    names = {model["name"] for model in body["models"]}
    assert names == SHARED_MODELS  # and no graph that a model calls, nor others of the repository
    demo = next(m for m in body["models"] if m["name"] == "demo")
    assert list(demo) == ["name", "type", "parameters", "context_length", "loaded", "backend"]
    assert demo["type"] == "causal_lm"
    assert demo["parameters"].endswith("M")
    assert (demo["context_length"], demo["loaded"], demo["backend"]) == (2048, True, "pytorch")


def test_stats_count_what_was_generated(server: TriadServer) -> None:
    before = server.get("/stats").json()
    body = {"model": "scripted", "prompt": json.dumps({"tokens": 7, "interval_ms": 2})}
    server.post("/generate", body)
    after = server.get("/stats").json()
    assert list(after) == [
        "is_loaded",
        "is_ready",
        "backend_type",
        "request_count",
        "total_tokens_generated",
        "total_inference_time",
        "avg_tokens_per_request",
        "avg_time_per_request",
        "avg_tokens_per_second",
        "avg_queue_wait",
        "queue_depth",
        "uptime",
    ]
    assert after["request_count"] == before["request_count"] + 1
    assert after["total_tokens_generated"] == before["total_tokens_generated"] + 7
    assert after["total_inference_time"] > before["total_inference_time"]
    assert after["avg_tokens_per_request"] == pytest.approx(
        after["total_tokens_generated"] / after["request_count"], abs=0.05
    )


def test_metrics_count_what_was_streamed(server: TriadServer) -> None:
    def read() -> dict[str, float]:
        names = {
            "requests": 'triad_requests_total{model="scripted",outcome="stop"}',
            "tokens": 'triad_generated_tokens_total{model="scripted"}',
            "first": 'triad_time_to_first_token_seconds_count{model="scripted"}',
            "between": 'triad_inter_token_latency_seconds_count{model="scripted"}',
            "duration": 'triad_request_duration_seconds_sum{model="scripted"}',
        }
        lines = dict(line.rsplit(" ", 1) for line in server.get("/metrics").text.splitlines())
        return {key: float(lines.get(name, 0)) for key, name in names.items()}

    before = read()
    script = json.dumps({"tokens": 6, "interval_ms": 30})
    server.post("/generate", {"model": "scripted", "prompt": script, "stream": True})
    after = read()
    assert after["requests"] - before["requests"] == 1
    assert after["tokens"] - before["tokens"] == 6
    assert after["first"] - before["first"] == 1
    assert 1 <= after["between"] - before["between"] <= 5
    assert 0.15 < after["duration"] - before["duration"] < 5


def test_refused_requests_are_counted_too(server: TriadServer) -> None:
    def count(route: str, status: int) -> float:
        return server.gauge(f'triad_http_responses_total{{route="{route}",status="{status}"}}')

    before = count("/generate", 400), count("/chat", 404), count("other", 404)
    server.post("/generate", {"prompt": ""})
    server.post("/chat", {"model": "nobody", "messages": [{"role": "user", "content": "a"}]})
    server.get("/nowhere")
    after = count("/generate", 400), count("/chat", 404), count("other", 404)
    assert after == tuple(n + 1 for n in before)


def test_openapi_describes_bodies_streams_and_errors(server: TriadServer) -> None:
    document = server.get("/openapi.json").json()
    for path in ("/generate", "/chat"):
        operation = document["paths"][path]["post"]
        assert {"200", "400", "404", "413", "500", "503", "504"} <= set(operation["responses"])
        content = operation["responses"]["200"]["content"]
        assert "application/json" in content
        shapes = content["text/event-stream"]["schema"]["oneOf"]
        names = [shape["$ref"].removeprefix("#/components/schemas/") for shape in shapes]
        assert names == ["TextEvent", "FinalEvent", "ErrorBody"]
        assert "422" not in operation["responses"]
    assert {"/health", "/stats", "/models", "/metrics"} <= set(document["paths"])
    assert server.get("/docs").ok


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (12_345, "12K"),
        (2_760_000, "2.8M"),
        (494_032_768, "494M"),
        (1_543_714_304, "1.5B"),
        (3_000_000_000, "3B"),
        (70_553_706_496, "71B"),
    ],
)
def test_parameter_count(count: int, text: str) -> None:
    assert parameter_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (61, "1 minute"),
        (3600, "1 hour"),
        (2 * 86400 + 14 * 3600 + 32 * 60 + 5, "2 days, 14 hours, 32 minutes"),
    ],
)
def test_uptime(seconds: float, text: str) -> None:
    assert uptime(seconds) == text
