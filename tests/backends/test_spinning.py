"""How long threads of PyTorch's operations look for work before they sleep."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ServerFactory


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "1000"),
        ({"TRIAD_SERVING__PYTORCH__SPIN_COUNT": "123"}, "123"),
        ({"TRIAD_SERVING__PYTORCH__SPIN_COUNT": "123", "GOMP_SPINCOUNT": "5"}, "5"),
    ],
    ids=["default", "setting", "environment"],
)
def test_what_counts_is_the_environment_then_the_setting(
    start_server: ServerFactory, environment: dict[str, str], expected: str
) -> None:
    server = start_server("--model", "demo", OMP_DISPLAY_ENV="VERBOSE", **environment)
    counts = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", server.log.read_text())
    assert counts and set(counts) == {expected}
