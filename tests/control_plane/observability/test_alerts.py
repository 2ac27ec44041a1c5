"""Thresholds: the figures that are compared, and when an alert begins and ends.

They are async because the metrics count the event loop's tasks.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from backends.contract.facts import GpuMemory, ModelFacts
from control_plane.models.catalog import Model
from control_plane.observability.alerts import CHECKS, MIN_REQUESTS, Alerts
from control_plane.observability.metrics import Metrics
from control_plane.settings import AlertThresholds
from tests.conftest import ServerFactory
from tests.support.server import TriadServer, wait_until

GIB = 1 << 30


def firing(metrics: Metrics, name: str) -> bool:
    return metrics.registry.get_sample_value("triad_alert_firing", {"alert": name}) == 1


def end(metrics: Metrics, outcome: str, times: int = 1, model: str = "a") -> None:
    metrics.requests.labels(model, outcome).inc(times)


def watched(models: Sequence[Model] = (), **thresholds: float) -> tuple[Metrics, Alerts]:
    metrics = Metrics()
    return metrics, Alerts(metrics, models, AlertThresholds(**thresholds))


async def test_the_error_rate_begins_and_ends_an_alert(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metrics, alerts = watched(error_rate=0.05)
    end(metrics, "stop", 95)
    end(metrics, "engine_error", 5, model="b")
    alerts.check()
    assert not firing(metrics, "error_rate")  # 0.05 is not above 0.05
    end(metrics, "model_not_ready", 1, model="")
    end(metrics, "length", 9)
    for _ in range(CHECKS):  # what was is forgotten after so many
        alerts.check()
        assert firing(metrics, "error_rate")
    alerts.check()
    assert not firing(metrics, "error_rate")
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert texts[0].startswith("alert: error_rate is 0.0545, above 0.05")
    assert texts[1].startswith("alert ended: error_rate")


@pytest.mark.parametrize("outcome", ["invalid_request_error", "client_disconnected", "length"])
async def test_what_clients_do_is_no_error(outcome: str) -> None:
    metrics, alerts = watched(error_rate=0.05)
    end(metrics, outcome, 100)
    alerts.check()
    assert not firing(metrics, "error_rate")


async def test_few_requests_say_nothing() -> None:
    metrics, alerts = watched()
    end(metrics, "engine_error", MIN_REQUESTS - 1)
    alerts.check()
    assert not firing(metrics, "error_rate")
    end(metrics, "deadline_exceeded")
    alerts.check()
    assert firing(metrics, "error_rate")


async def test_what_was_before_the_start_does_not_count() -> None:
    metrics = Metrics()
    end(metrics, "engine_error", 100)
    Alerts(metrics, (), AlertThresholds()).check()
    assert not firing(metrics, "error_rate")


async def test_the_99th_percentile_is_within_its_bucket() -> None:
    chance = random.Random(1)
    metrics, alerts = watched(latency_p99=1.0)
    durations = [chance.lognormvariate(-2, 1) for _ in range(5000)]
    for number, seconds in enumerate(durations):
        metrics.duration.labels("ab"[number % 2]).observe(seconds)
    found = alerts.recent().latency_p99
    assert found is not None
    true = float(np.quantile(durations, 0.99))
    assert 1 < true < 2
    assert 1 < found <= 2
    alerts.check()
    assert firing(metrics, "latency_p99")


async def test_latencies_over_all_buckets() -> None:
    metrics, alerts = watched(latency_p99=59.0)
    for _ in range(20):
        metrics.duration.labels("a").observe(1000)
    assert alerts.recent().latency_p99 == 60  # the highest bound
    alerts.check()
    assert firing(metrics, "latency_p99")


async def test_the_fullest_gpu_counts() -> None:
    def gpus(*used: int) -> ModelFacts:
        memory = (GpuMemory(total=24 * GIB, used=part * GIB, free=0) for part in used)
        return ModelFacts(gpus=tuple(memory))

    models = [Model("a", "a"), Model("b", "b", facts=gpus(1, 23))]
    metrics, alerts = watched(models, gpu_memory_usage=0.95)
    alerts.check()
    assert firing(metrics, "gpu_memory_usage")
    models[1].facts = gpus(1, 22)
    alerts.check()
    assert not firing(metrics, "gpu_memory_usage")


@pytest.fixture
def strict(start_server: ServerFactory) -> TriadServer:
    return start_server(
        TRIAD_SERVING__MONITORING__HEALTH_CHECK_INTERVAL="0.3",
        TRIAD_SERVING__MONITORING__ALERT_THRESHOLDS="{error_rate: 0.3, latency_p99: 0.4}",
    )


def test_a_server_raises_them(strict: TriadServer) -> None:
    def post(script: dict[str, object], stream: bool) -> None:
        strict.post("/generate", {"prompt": json.dumps(script), "stream": stream})

    assert strict.gauge("triad_alert_firing") == 0
    for stream in (False, True) * 5:
        post({"tokens": 2, "fail_at": 1}, stream)
    wait_until(lambda: strict.gauge('triad_alert_firing{alert="error_rate"}') == 1)
    assert strict.gauge("triad_alert_firing") == 1
    assert "alert: error_rate is 1, above 0.3" in strict.log.read_text()
    wait_until(lambda: strict.gauge("triad_alert_firing") == 0)
    assert "alert ended: error_rate" in strict.log.read_text()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: post({"tokens": 1, "delay_ms": 450}, False), range(12)))
    wait_until(lambda: strict.gauge('triad_alert_firing{alert="latency_p99"}') == 1)
