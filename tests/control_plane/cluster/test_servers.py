"""What the settings say of servers and of their checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from control_plane.cluster.client import ClusterClient
from control_plane.cluster.metrics import InstanceMetrics
from control_plane.cluster.servers import HealthChecks, connect, control_value, endpoints
from control_plane.inference.fake import FakeModelClient
from control_plane.models.catalog import Model
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


def clients(*endpoints: str) -> dict[str, FakeModelClient]:
    found = {endpoint: FakeModelClient() for endpoint in endpoints}
    for client in found.values():
        client.add_model("demo")
    return found


def ignore(model: Model) -> None: ...


async def test_one_server_is_spoken_to_directly() -> None:
    found = clients("a:1")
    connection = connect(settings(triton={"endpoints": ["a:1"]}), found.__getitem__, ignore)
    assert connection.client is found["a:1"]
    assert not connection.instances
    await connection.catalog.refresh()
    assert [model.name for model in connection.catalog] == ["demo"]


async def test_several_servers_are_one_cluster_with_their_weights() -> None:
    balancing = {"enabled": True, "strategy": "weighted", "instances": INSTANCES}
    found = clients("a:8001", "[::1]:9001")
    connection = connect(settings(load_balancing=balancing), found.__getitem__, ignore)
    assert isinstance(connection.client, ClusterClient)
    assert [(i.endpoint, i.weight) for i in connection.instances] == [
        ("a:8001", 3),
        ("[::1]:9001", 1),
    ]
    await connection.catalog.refresh()
    assert all(instance.has_ready("demo") for instance in connection.instances)


def test_each_server_has_its_metrics() -> None:
    named = settings(triton={"endpoints": ["a:1", "b:2"]})
    instances = connect(named, clients("a:1", "b:2").__getitem__, ignore).instances
    registry = CollectorRegistry()
    counted = InstanceMetrics(registry)
    for instance in instances:
        instance.count_in(counted)
    for _ in range(3):
        instances[1].begun()
    for _ in range(2):
        instances[1].has_failed()
        instances[1].ended()
    assert [instances[1].running, instances[1].sent, instances[1].failed] == [1, 3, 2]
    names = ("running", "requests_total", "failures_total")
    found = {
        name: registry.get_sample_value(name, {"instance": "b:2"})
        for name in (f"triad_instance_{name}" for name in names)
    }
    assert found == {
        "triad_instance_running": 1,
        "triad_instance_requests_total": 3,
        "triad_instance_failures_total": 2,
    }
