"""The servers that the settings name, and what speaks to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from control_plane.balancing import create_strategy
from control_plane.cluster.catalog import ClusterCatalog
from control_plane.cluster.client import ClusterClient
from control_plane.cluster.instance import Instance
from control_plane.inference.client import ModelClient
from control_plane.models.catalog import Catalog, Model, Models
from control_plane.models.processes import ModelProcesses
from control_plane.settings import ServingSettings, TritonSettings


def endpoints(settings: ServingSettings) -> dict[str, int]:
    """Return gRPC addresses with their weights; none where an embedded server is wanted."""
    balancing = settings.load_balancing
    if balancing.enabled and balancing.instances:
        return {
            f"[{i.host}]:{i.port}" if ":" in i.host else f"{i.host}:{i.port}": i.weight
            for i in balancing.instances
        }
    return dict.fromkeys(settings.triton.endpoints, 1)


def control_value(triton: TritonSettings) -> str | None:
    """Return the secret that opens restricted protocols. Raises OSError for a file that cannot
    be read."""
    if triton.model_control_value is not None:
        return triton.model_control_value.get_secret_value()
    if triton.model_control_file is not None:
        return triton.model_control_file.read_text().strip()
    return None


@dataclass(frozen=True, slots=True)
class HealthChecks:
    """The times of health checks, in seconds. ``failures``: in a row, until a model counts as
    unhealthy."""

    interval: float
    timeout: float
    failures: int

    @classmethod
    def of(cls, settings: ServingSettings) -> HealthChecks:
        triton, checks = settings.triton, settings.health_check
        if checks.enabled:
            return cls(checks.interval, checks.timeout, checks.retries)
        balancing = settings.load_balancing
        interval = balancing.health_check_interval if balancing.enabled else None
        return cls(interval or triton.health_check_interval, triton.health_check_timeout, 1)


@dataclass(frozen=True, slots=True)
class Connection:
    """The servers of one gateway. ``instances``: where there are several; else none."""

    client: ModelClient
    catalog: Models
    instances: Sequence[Instance] = ()


def connect(
    settings: ServingSettings,
    create_client: Callable[[str], ModelClient],
    on_unhealthy: Callable[[Model], None],
    processes: ModelProcesses | None = None,
) -> Connection:
    """Return what speaks to the servers that the settings name, and knows their models.

    Of several servers, `ClusterClient` fails over what waits for a model that has become unhealthy
    on one of them. ``create_client``: makes the client of one server from its address.
    ``on_unhealthy``: called when a model of the only server has become unhealthy. ``processes``:
    those that hold its models, where they run on this machine.
    """
    named, checks = endpoints(settings), HealthChecks.of(settings)
    engine = settings.engine_asked_for

    def catalog(client: ModelClient, on_unhealthy: Callable[[Model], None]) -> Catalog:
        return Catalog(
            client,
            settings.model,
            settings.models,
            engine,
            timeout=checks.timeout,
            failures=checks.failures,
            processes=processes,
            on_unhealthy=on_unhealthy,
        )

    if len(named) <= 1:  # none are named where the client is not a server's
        client = create_client(next(iter(named), ""))
        return Connection(client, catalog(client, on_unhealthy))
    instances: list[Instance] = []
    balancing = settings.load_balancing
    strategy = balancing.strategy if balancing.enabled else "round_robin"
    cluster = ClusterClient(instances, create_strategy(strategy), balancing.max_retries)
    for endpoint, weight in named.items():
        instance = Instance(endpoint, weight, create_client(endpoint))
        instance.catalog = catalog(instance.client, partial(cluster.on_model_unhealthy, instance))
        instances.append(instance)
    return Connection(cluster, ClusterCatalog(instances, settings.model, engine), instances)
