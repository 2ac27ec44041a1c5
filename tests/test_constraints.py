"""`constraints.txt` has a version for all that pip installs from an index, and one that fits."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.container import installed_by_the_dockerfile
from tests.support.server import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ELSEWHERE = frozenset({"torch"})
"""Its build depends on the machine: `TORCH` in the Makefile."""

OF_TOOLS = frozenset({"bench", "fuzz"})
"""Extras that neither serving nor the tests need."""


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def asked_for() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(r for e in extras.keys() - OF_TOOLS for r in extras[e])]
    return [Requirement(text) for text in [*texts, *installed_by_the_dockerfile()]]


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
