"""What is not done is refused by the name of its key, and only when it is asked for."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from control_plane.settings import (
    Settings,
    SettingsError,
    load_settings,
    require_supported,
    unsupported,
)

DOCUMENTS = Path(__file__).parents[3] / "docker" / "config"


def refused(settings: Settings) -> list[str]:
    return [sentence.partition(":")[0] for sentence in unsupported(settings)]


def serving(text: str) -> Settings:
    values: dict[str, Any] = yaml.safe_load(text)
    return Settings.model_validate({"serving": values})


def test_defaults_and_the_documents_of_the_specification_are_supported() -> None:
    require_supported(Settings())
    for name in ("development", "production", "high-availability"):
        require_supported(load_settings(DOCUMENTS / f"{name}.yaml", {}))


def test_what_is_refused_is_named_key_by_key() -> None:
    credentials = "{allow_origins: ['*'], allow_credentials: true}"
    settings = serving(f"{{cors: {credentials}, workers: 2, reload: true}}")
    assert refused(settings) == ["serving.reload", "serving.cors.allow_credentials"]
    with pytest.raises(SettingsError) as raised:
        require_supported(settings)
    assert list(raised.value.problems) == unsupported(settings)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{workers: 2, reload: true}", "reload"),
        ("cors: {allow_origins: ['*'], allow_credentials: true}", "cors.allow_credentials"),
        ("cors: {allow_origins: [a, 'null'], allow_credentials: true}", "cors.allow_credentials"),
        ("auth: {enabled: true, auth_type: jwt, audience: a}", "auth.issuer"),
        ("auth: {enabled: true, auth_type: jwt, audience: a, issuer: me}", "auth.issuer"),
        ("auth: {enabled: true, auth_type: jwt, issuer: 'https://a'}", "auth.audience"),
        (
            "auth: {enabled: true, auth_type: jwt, issuer: 'https://a', audience: a, "
            "token_validation_url: 'https://a'}",
            "auth.token_validation_url",
        ),
        ("auth: {enabled: true, issuer: 'https://a'}", "auth.issuer"),
        ("auth: {enabled: true, auth_type: api_key, algorithms: [RS256]}", "auth.algorithms"),
        ("auth: {enabled: true, jwks_max_age: 5}", "auth.jwks_max_age"),
    ],
)
def test_what_is_not_done(text: str, key: str) -> None:
    assert refused(serving(text)) == [f"serving.{key}"]


@pytest.mark.parametrize(
    "text",
    [
        "auth: {enabled: true, auth_type: jwt, issuer: 'https://a', audience: a}",
        "auth: {enabled: true, auth_type: jwt, issuer: a, audience: a, jwks_url: 'https://a'}",
        "auth: {auth_type: jwt}",
        "workers: 4",
        "batching: {enabled: true, max_batch_size: 4}",
        "caching: {enabled: false, cache_type: memory}",
        "vllm: {max_num_seqs: 4}",
        "backend_type: onnx",
        "backend_type: vllm",
        "onnx: {optimization_level: basic}",
        "validation: {max_prompt_length: 4, max_tokens: 4}",
        "monitoring: {enabled: true, metrics_endpoint: /m, health_check_interval: 30}",
        "monitoring: {enabled: false, alert_thresholds: {error_rate: 0.5}}",
        "monitoring: {enabled: false, health_check_interval: 5}",
        "triton: {endpoints: ['a:1']}",
        "cors: {allow_origins: ['*']}",
        "cors: {allow_origins: ['https://a.example'], allow_credentials: true}",
    ],
)
def test_what_is_not_asked_for_or_exists_is_supported(text: str) -> None:
    assert unsupported(serving(text)) == []


JOINED = ("triton: {endpoints: ['a:1']}", "load_balancing: {enabled: true, instances: [{host: a}]}")


@pytest.mark.parametrize("servers", JOINED)
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("pytorch: {max_num_seqs: 4}", "pytorch.max_num_seqs"),
        ("onnx: {precision: int4}", "onnx.precision"),
        ("vllm: {engine_args: {dtype: bfloat16}}", "vllm.engine_args"),
        ("stream_interval_ms: 0", "stream_interval_ms"),
        ("batching: {enabled: true}", "batching"),
        ("model: /models/mine", "model"),
        ("model: ./mine", "model"),
        ("models: [demo, model_repository/demo]", "models"),
    ],
)
def test_what_servers_that_are_joined_would_have_to_be_told(
    monkeypatch: pytest.MonkeyPatch, servers: str, text: str, key: str
) -> None:
    monkeypatch.chdir(DOCUMENTS.parents[1])
    assert refused(serving(text)) == []
    assert refused(serving(f"{servers}\n{text}")) == [f"serving.{key}"]


@pytest.mark.parametrize("servers", JOINED)
@pytest.mark.parametrize("text", ["model: Qwen/Qwen2.5-3B", "model: demo", "backend_type: vllm"])
def test_what_is_asked_of_servers_that_are_joined(servers: str, text: str) -> None:
    assert refused(serving(f"{servers}\n{text}")) == []


@pytest.mark.parametrize("algorithms", ["[HS256]", "[none]", "[]", "[RS256, HS512]", "[ES256K]"])
def test_tokens_are_not_signed_with_secrets(algorithms: str) -> None:
    with pytest.raises(ValidationError):
        serving(f"auth: {{auth_type: jwt, algorithms: {algorithms}}}")
