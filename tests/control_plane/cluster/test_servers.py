"""What the settings say of servers and of their checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from control_plane.cluster.servers import HealthChecks, control_value, endpoints
from control_plane.settings import ServingSettings, TritonSettings

INSTANCES = [{"host": "a", "weight": 3}, {"host": "::1", "port": 9001}]


def settings(**values: Any) -> ServingSettings:  # noqa: ANN401
    return ServingSettings.model_validate(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"triton": {"endpoints": ["a:1", "b:2"]}}, {"a:1": 1, "b:2": 1}),
        ({"load_balancing": {"enabled": False, "instances": INSTANCES}}, {}),
        (
            {"load_balancing": {"enabled": True, "instances": INSTANCES}},
            {"a:8001": 3, "[::1]:9001": 1},
        ),
        ({"load_balancing": {"enabled": True}, "triton": {"endpoints": ["a:1"]}}, {"a:1": 1}),
    ],
)
def test_endpoints(values: dict[str, Any], expected: dict[str, int]) -> None:
    assert endpoints(settings(**values)) == expected


def test_the_secret_of_servers_and_the_file_with_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from a file\n")
    assert control_value(TritonSettings()) is None
    assert control_value(TritonSettings(model_control_file=file)) == "from a file"
    both = TritonSettings(model_control_file=file, model_control_value=SecretStr("a value"))
    assert control_value(both) == "a value"
    with pytest.raises(OSError, match="nowhere"):
        control_value(TritonSettings(model_control_file=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, HealthChecks(1, 5, 1)),
        (
            {"triton": {"health_check_interval": 2.0, "health_check_timeout": 3.0}},
            HealthChecks(2, 3, 1),
        ),
        ({"load_balancing": {"enabled": True}}, HealthChecks(30, 5, 1)),
        ({"health_check": {"enabled": False, "interval": 7.0}}, HealthChecks(1, 5, 1)),
        (
            {
                "load_balancing": {"enabled": True},
                "health_check": {"enabled": True, "interval": 7.0, "timeout": 2.0, "retries": 4},
            },
            HealthChecks(7, 2, 4),
        ),
    ],
)
def test_checks(values: dict[str, Any], expected: HealthChecks) -> None:
    assert HealthChecks.of(settings(**values)) == expected
