"""``pytest -n 2``: which tests run in one process, and in which order.

pytest-xdist's own ways to group tests need a mark that pytest 9.2 no longer carries to it
(``loadgroup``), or would start the same server in each process (``loadfile``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).resolve().parents[1]

# What shares a fixture that takes long to make, by the beginning of its path in `tests`. What takes
# longest starts first, so that the processes end together.
TOGETHER = {
    "end_to_end/test_vllm.py": "vLLM",
    "control_plane/api/": "the shared server",
    "control_plane/triton/test_client.py": "the shared server",
    "control_plane/embedded/test_privacy.py": "the shared server",
    "control_plane/test_cli.py": "the shared server",
    "end_to_end/": "the shared server",
    "control_plane/python_api/test_model_server.py": "the shared server",
    "converters/": "the exports",
    "control_plane/triton/test_peer.py": "clients with a peer",
    "control_plane/triton/http2/": "clients with a peer",
    "control_plane/embedded/": "a server that is killed",
    "backends/onnxruntime_shim/": "a Triton with ONNX models",
    "backends/encoder/": "a Triton with encoders",
}
# What the end-to-end tests of all engines have in their names where they run on vLLM.
_ON_VLLM = "demo_vllm"
_SERVERS = ("server", "debug_server", "others_server", "vllm_server")
_ORDER = list(dict.fromkeys(TOGETHER.values()))


def group(nodeid: str) -> str:
    """Return the name of a test's group: a file's own path where it shares nothing."""
    path, _, name = nodeid.removeprefix(f"{TESTS.name}/").partition("::")
    if _ON_VLLM in name and path.startswith("end_to_end/"):
        return TOGETHER["end_to_end/test_vllm.py"]
    return next((value for start, value in TOGETHER.items() if path.startswith(start)), path)


def path_of(item: pytest.Item) -> str:
    """Return the path of the item's file in `tests`."""
    return item.path.relative_to(TESTS).as_posix()


def rank(item: pytest.Item) -> int:
    """Return the place of the item's group among the groups."""
    name = group(item.nodeid)
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def started_twice(items: Sequence[pytest.Item]) -> list[str]:
    """Return the servers that the run shares and that tests of several groups ask for.

    Each group's process would start its own.
    """
    groups: dict[str, set[str]] = {name: set() for name in _SERVERS}
    for item in items:
        for name in groups.keys() & set(getattr(item, "fixturenames", ())):
            groups[name].add(group(item.nodeid))
    return [f"{name}: {', '.join(sorted(of))}" for name, of in groups.items() if len(of) > 1]


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands a group to a process at a time, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Any) -> None:  # noqa: ANN401
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
