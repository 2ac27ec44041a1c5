"""Servers that the whole test run shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.server import SCRIPTED, SCRIPTED_CHAT, TriadServer, triad_server

ServerFactory = Callable[..., TriadServer]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """A server with the demo models and the scripted ones; PyTorch's demo is the default. Leave it
    as it is."""
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {
        "TRIAD_SERVING__MODELS": f"[{SCRIPTED}, {SCRIPTED_CHAT}, demo_onnx]",
        "TRIAD_SERVING__KEEP_ALIVE_INTERVAL": "0.5",
    }
    with triad_server(log, environment=environment) as running:
        yield running


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[ServerFactory]:
    """Starts servers of a test's own: with the scripted model unless told otherwise."""
    with ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> TriadServer:
            log = tmp_path / f"server-{len(list(tmp_path.iterdir()))}.log"
            if "--model" not in arguments:
                arguments = ("--model", str(SCRIPTED), *arguments)
            return stack.enter_context(triad_server(log, *arguments, environment=environment))

        yield start
