"""Every configuration that the documentation shows is accepted, with the values it gives."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.settings import ServingSettings, load_settings

DOCUMENTS = Path(__file__).parents[3] / "docker" / "config"

SECTIONS = {
    "batching": """
        enabled: true
        max_batch_size: 32
        batch_timeout_ms: 50
        adaptive_batching: true
    """,
    "caching": """
        enabled: true
        cache_type: redis
        cache_size: 1GB
        ttl_seconds: 3600
    """,
    "load_balancing": """
        enabled: true
        strategy: round_robin
        health_check_interval: 30
        max_retries: 3
    """,
    "auth": """
        enabled: true
        auth_type: bearer_token
        token_validation_url: https://auth.example.com/validate
        required_scopes: ["llm:generate"]
    """,
    "rate_limiting": """
        enabled: true
        requests_per_minute: 60
        tokens_per_minute: 10000
        burst_allowance: 10
    """,
    "validation": """
        max_prompt_length: 4096
        max_tokens: 2048
        allowed_characters: unicode
        content_filtering: true
    """,
    "monitoring": """
        enabled: true
        metrics_endpoint: /metrics
        health_check_interval: 30
        alert_thresholds: {error_rate: 0.05, latency_p99: 5.0, gpu_memory_usage: 0.95}
    """,
    "pytorch": """
        device: auto
        torch_dtype: auto
        compile_model: false
        optimization_level: O1
    """,
    "onnx": """
        providers: [CUDAExecutionProvider, CPUExecutionProvider]
        optimization_level: all
        intra_op_num_threads: 4
        inter_op_num_threads: 2
    """,
    "vllm": """
        tensor_parallel_size: 1
        gpu_memory_utilization: 0.9
        max_model_len: 2048
        max_num_seqs: 256
        enable_streaming: true
    """,
}


def section(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(SECTIONS[name])
    return values


def serving(document: str) -> ServingSettings:
    return load_settings(DOCUMENTS / document, {}).serving


@pytest.mark.parametrize("name", SECTIONS)
def test_a_documented_section_keeps_its_values(name: str) -> None:
    settings = ServingSettings.model_validate({name: section(name)})
    expected = section(name)
    if name == "caching":
        expected["cache_size"] = 10**9
    assert getattr(settings, name).model_dump(exclude_unset=True) == expected


@pytest.mark.parametrize("name", SECTIONS)
def test_a_documented_section_can_be_assigned(name: str) -> None:
    settings = ServingSettings()
    setattr(settings, name, section(name))
    assert settings == ServingSettings.model_validate({name: section(name)})


@pytest.mark.parametrize("name", ["onnx", "vllm"])
def test_the_documented_engine_values_are_the_defaults(name: str) -> None:
    values = getattr(ServingSettings(), name).model_dump()
    assert {key: values[key] for key in section(name)} == section(name)


def test_development() -> None:
    assert serving("development.yaml").model_dump(exclude_unset=True) == {
        "backend_type": "pytorch",
        "host": "127.0.0.1",
        "port": 8000,
        "workers": 1,
        "debug": True,
        "reload": True,
    }


def test_production() -> None:
    assert serving("production.yaml").model_dump(exclude_unset=True) == {
        "backend_type": "vllm",
        "host": "0.0.0.0",
        "port": 8000,
        "workers": 4,
        "vllm": {
            "tensor_parallel_size": 4,
            "gpu_memory_utilization": 0.9,
            "max_model_len": 2048,
            "max_num_seqs": 512,
        },
        "auth": {"enabled": True, "auth_type": "bearer_token"},
        "rate_limiting": {"enabled": True, "requests_per_minute": 1000},
        "monitoring": {"enabled": True, "metrics_endpoint": "/metrics"},
    }


def test_high_availability() -> None:
    assert serving("high-availability.yaml").model_dump(exclude_unset=True) == {
        "backend_type": "vllm",
        "load_balancing": {
            "enabled": True,
            "strategy": "least_connections",
            "instances": [
                {"host": "server1.example.com", "port": 8000, "weight": 1},
                {"host": "server2.example.com", "port": 8000, "weight": 1},
            ],
        },
        "health_check": {"enabled": True, "interval": 10, "timeout": 5, "retries": 3},
    }


def test_everything_optional_but_metrics_is_off_by_default() -> None:
    dump = ServingSettings().model_dump()
    switches = {k: v["enabled"] for k, v in dump.items() if "enabled" in as_dict(v)}
    assert len(switches) == 7
    assert [key for key, enabled in switches.items() if enabled] == ["monitoring"]
    assert not dump["validation"]["content_filtering"]
    assert dump["pytorch"]["optimization_level"] == "auto"


def as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
