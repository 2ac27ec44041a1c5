"""What differs between two settings, and what a restart is needed for."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.reloading.restart import needs_restart
from control_plane.settings import ServingSettings, changed, shown, with_kept
from control_plane.settings.changes import values


def serving(**given: Any) -> ServingSettings:  # noqa: ANN401
    return ServingSettings.model_validate(given)


def test_a_change_is_named_by_its_key() -> None:
    before = serving(auth={"enabled": True}, models=["a"])
    after = serving(auth={"enabled": True, "audience": "us"}, models=["a", "b"], port=9)
    assert set(changed(before, after)) == {
        "serving.auth.audience",
        "serving.models",
        "serving.port",
    }
    assert changed(before, before.model_copy(deep=True)) == []


def test_a_kept_key_is_as_it_was_and_as_given_as_it_was() -> None:
    before = serving(caching={"ttl_seconds": 5})
    after = serving(port=9, vllm={"max_num_seqs": 3}, caching={"enabled": True})
    kept = with_kept(after, before, ["serving.port", "serving.vllm.max_num_seqs"])
    assert kept.port == 8000
    assert kept.caching == after.caching
    assert "port" not in kept.model_fields_set
    assert not kept.vllm.model_fields_set  # type: ignore[attr-defined]
    assert kept.model_fields_set >= {"caching"}


def test_secrets_can_be_compared_and_not_read() -> None:
    def view(url: str, salt: bytes = b"s") -> dict[str, Any]:
        return dict(
            shown(
                serving(
                    caching={"redis_url": f"redis://:{url}@a"},
                    auth={"token_validation_url": f"https://us:{url}@b/introspect"},
                ),
                salt,
            )
        )

    first, second = view("password-1"), view("password-2")
    assert view("password-1") == first != view("password-1", b"t")
    assert "password-1" not in str(first)
    keys = {"serving.caching.redis_url", "serving.auth.token_validation_url"}
    assert {key for key in first if first[key] != second[key]} == keys


RESTART = {"host", "port", "workers", "reload", "stream_interval_ms", "allow_control_tokens"}


@pytest.mark.parametrize("embedded", [True, False])
def test_what_needs_a_restart(embedded: bool) -> None:
    settings = serving() if embedded else serving(triton={"endpoints": ["a:1"]})
    test = needs_restart(embedded, settings)
    keys = {key.removeprefix("serving.") for key, _ in values(settings)}
    found = {key for key in keys if test(f"serving.{key}")}
    alone = {key for key in found if "." not in key}
    sections = {key.partition(".")[0] for key in found} - alone
    if embedded:
        assert alone == RESTART | {"model", "models", "backend_type"}
        assert sections == {"pytorch", "onnx", "vllm", "batching", "triton", "http"}
        assert "triton.health_check_timeout" not in found
    else:
        assert alone == RESTART
        assert sections == {"pytorch", "onnx", "vllm", "batching", "http"}


def test_another_kind_of_server_needs_a_restart() -> None:
    named = serving(triton={"endpoints": ["a:1"]})
    assert needs_restart(True, named)("serving.triton.endpoints")
    assert not needs_restart(False, named)("serving.triton.endpoints")
    assert needs_restart(False, serving())("serving.triton.endpoints")
    assert needs_restart(False, serving())("serving.load_balancing.enabled")
    assert not needs_restart(True, serving())("serving.load_balancing.enabled")
