"""What the wheel has, by pyproject.toml: the product, and no test double."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from setuptools import find_namespace_packages

from tests.support.server import ROOT

IMPORTS_TESTS = re.compile(r"^\s*(?:from|import) tests\b", re.MULTILINE)


@pytest.fixture(scope="module")
def packages() -> list[str]:
    """Return the names of the packages that setuptools puts into the wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found: list[str] = find_namespace_packages(str(ROOT), **settings["packages"]["find"])
    return found


def files(packages: list[str]) -> list[Path]:
    """Return the Python files of the packages."""
    return [file for name in packages for file in (ROOT / name.replace(".", "/")).glob("*.py")]


def test_the_product_is_there(packages: list[str]) -> None:
    assert {name.partition(".")[0] for name in packages} == {
        "backends",
        "control_plane",
        "converters",
    }
    assert {"backends.pytorch", "control_plane.api.openai", "converters.decoder"} <= set(packages)


def test_no_test_double_is_there(packages: list[str]) -> None:
    doubles = {file.name for file in (ROOT / "tests" / "support").iterdir() if file.is_dir()}
    doubles -= {"__pycache__"}
    assert "scripted" in doubles
    assert not [name for name in packages if doubles & set(name.split("."))]
    assert not [file for file in files(packages) if IMPORTS_TESTS.search(file.read_text())]
