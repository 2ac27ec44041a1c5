"""Which settings only a restart can change."""

from __future__ import annotations

from collections.abc import Callable

from backends.contract.parameters import SERVING_PARAMETERS
from control_plane.cluster.servers import endpoints
from control_plane.engines import ENGINE_NAMES
from control_plane.settings import ServingSettings

_ALWAYS = (
    *("host", "port", "workers", "reload", "http.tls"),
    *("batching", *ENGINE_NAMES, *SERVING_PARAMETERS),
)
"""What the socket, the processes and the models' configurations are made of."""
_EMBEDDED = ("model", "models", "backend_type", "triton")
"""What the embedded server has been started with."""
_CHECKS = ("triton.health_check_interval", "triton.health_check_timeout")
"""Of these, what the gateway alone does."""
_SERVERS = ("triton.endpoints", "load_balancing.enabled", "load_balancing.instances")
"""Which servers there are: whether that is the embedded one stays as it is."""


def needs_restart(embedded: bool, after: ServingSettings) -> Callable[[str], bool]:
    """Return the test of whether a key with another value in ``after`` needs a restart.
    ``embedded``: the server that runs has an embedded Triton."""
    names = [*_ALWAYS, *(_EMBEDDED if embedded else ())]
    if embedded == bool(endpoints(after)):
        names += _SERVERS

    def test(key: str) -> bool:
        name = key.removeprefix("serving.")
        return name not in _CHECKS and any(name == n or name.startswith(f"{n}.") for n in names)

    return test
