"""How long threads of PyTorch's operations look for work before they sleep."""

from __future__ import annotations

import re

from tests.support.server import TriadServer


def spin_counts(server: TriadServer) -> set[str]:
    """Of its models, as libgomp tells them where `OMP_DISPLAY_ENV` is set."""
    return set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", server.log.read_text()))


def test_the_default(server: TriadServer) -> None:
    assert spin_counts(server) == {"1000"}


def test_the_setting(debug_server: TriadServer) -> None:
    assert spin_counts(debug_server) == {"123"}
