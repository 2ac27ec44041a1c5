"""`constraints.txt` has a version that fits, and hashes, for all that comes from an index."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from docs.tools.constraints import CONSTRAINTS, OF_TORCH, VLLM, parse_pins
from tests.support.container import installed_by_the_dockerfile
from tests.support.server import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ELSEWHERE = frozenset({"torch"})
"""Its build depends on the machine: `TORCH` in the Makefile."""

OF_TOOLS = frozenset({"bench", "fuzz", "lock"})
"""Extras that neither serving nor the tests need."""


def constraints() -> dict[str, str]:
    """Return the version of each package that holds for this Python."""
    pins = (requirement for requirement, _ in parse_pins(CONSTRAINTS.read_text()))
    here = (pin for pin in pins if pin.marker is None or pin.marker.evaluate())
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}


def asked_for() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(r for e in extras.keys() - OF_TOOLS for r in extras[e])]
    wanted = [Requirement(text) for text in [*texts, *installed_by_the_dockerfile()]]
    return [one for one in wanted if one.marker is None or one.marker.evaluate()]


def test_every_package_has_a_version_that_fits() -> None:
    """What they need too."""
    fixed = constraints()
    problems, seen, waiting = [], set(ELSEWHERE), asked_for()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name not in ELSEWHERE and not wanted.specifier.contains(fixed.get(name, "0")):
            problems.append(f"{wanted}: constraints.txt has {fixed.get(name)}")
        key = f"{name}{sorted(wanted.extras)}"
        if key in seen:
            continue
        seen.add(key)
        try:
            needed = [Requirement(text) for text in distribution(name).requires or ()]
        except PackageNotFoundError:
            continue
        environments = [{"extra": extra} for extra in ("", *wanted.extras)]
        waiting += [
            r for r in needed if r.marker is None or any(r.marker.evaluate(e) for e in environments)
        ]
    assert problems == []


@pytest.mark.parametrize("file", [CONSTRAINTS, VLLM], ids=lambda file: file.name)
def test_every_version_has_the_hashes_of_its_files(file: Path) -> None:
    pins = list(parse_pins(file.read_text()))
    assert len(pins) > 100
    assert not [str(pin) for pin, _ in pins if not re.fullmatch(r"==[\w.]+", str(pin.specifier))]
    unverified = [pin.name for pin, hashes in pins if not hashes]
    assert [name for name in unverified if not OF_TORCH.fullmatch(name)] == []
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for _, hashes in pins for one in hashes)


@pytest.mark.parametrize("file", [CONSTRAINTS, VLLM], ids=lambda file: file.name)
def test_no_index_is_named(file: Path) -> None:
    requirements = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in requirements if "://" in line or "index" in line.split("=")[0]]


def test_pip_verifies_hashes_in_constraints() -> None:
    """It does from release 26.1 on."""
    (pin,) = [(p, h) for p, h in parse_pins(CONSTRAINTS.read_text()) if p.name == "pip"]
    assert pin[1] and Version(constraints()["pip"]) >= Version("26.1")
