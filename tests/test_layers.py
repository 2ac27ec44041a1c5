"""The floors of the house: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = [
    {"errors", "version", "background", "caller_hash", "rare_log", "sqlite_file", "setting_types"},
    {"tls"},
    {"inference", "redis_client"},
    {"balancing", "engines", "triton"},
    {"settings"},
    {"logs", "models", "validation"},
    {"embedded", "observability", "cluster"},
    {"cache"},
    {"generation"},
    {"http"},
    {"admission"},
    {"auth"},
    {"services"},
    {"api", "python_api"},
    {"middleware"},
    {"app"},
    {"reloading"},
    {"workers", "announcement"},
    {"serve"},
    {"cli"},
]
"""Rooms of `control_plane`, the lowest floor first. A room imports from lower floors alone."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

WIRE = {"grpc", "google", "tritonclient", "hpack", "h2"}
CONFIGURATION = ("google.protobuf", "tritonclient.grpc.model_config_pb2")
"""Messages that the model repository writes into ``config.pbtxt``, and sends to nobody."""
SPEAK_TO_TRITON = {"triton", "embedded"}


def imports(package: str) -> Iterator[tuple[str, str]]:
    """Yield each module of a package with each module that it imports."""
    for path in sorted((ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield module, node.module
            elif isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)


def room(module: str) -> str:
    """Return the part of `control_plane` that a module is in; "" for the package itself."""
    return f"{module}.".split(".")[1]


GATEWAY = [(a, b) for a, b in imports("control_plane") if room(a)]


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module, _ in GATEWAY} == FLOOR.keys() - {"version"}


@pytest.mark.parametrize("lower", sorted(FLOOR))
def test_nothing_imports_upwards(lower: str) -> None:
    """Nor from another room of the same floor, so there can be no circle."""
    upward = {
        f"{module} imports {imported}"
        for module, imported in GATEWAY
        if room(module) == lower
        and imported.startswith("control_plane.")
        and room(imported) != lower
        and FLOOR[room(imported)] >= FLOOR[lower]
    }
    assert not upward


def test_two_rooms_speak_to_triton() -> None:
    """The services that compose the gateway make the client, and call it by its port alone."""
    knows = {
        room(module)
        for module, imported in GATEWAY
        if imported.startswith("control_plane.triton")
        or (imported.split(".")[0] in WIRE and not imported.startswith(CONFIGURATION))
    }
    assert knows == SPEAK_TO_TRITON | {"services"}


def test_the_gateway_knows_nothing_of_engines_but_the_contract() -> None:
    allowed = ("backends.contract", "backends.logs", "backends.sampling_parameters")
    assert not [
        (module, imported)
        for module, imported in GATEWAY
        if imported.startswith("backends") and not imported.startswith(allowed)
    ]


def test_models_processes_know_nothing_of_the_gateway() -> None:
    for package in ("backends", "converters"):
        assert not [pair for pair in imports(package) if pair[1].startswith("control_plane")]
    assert not [pair for pair in imports("backends") if pair[1].startswith("converters")]
