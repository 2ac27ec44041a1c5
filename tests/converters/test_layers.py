"""Which packages of `converters` may import which: the kinds of export know nothing of each
other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import converters

ROOT = Path(converters.__path__[0])
MAY_IMPORT = {
    "common": {"common"},
    "forward_pass": {"common", "forward_pass"},
    "decoder": {"common", "decoder"},
    "encoder": {"common", "forward_pass", "encoder"},
    "plain": {"common", "forward_pass", "plain"},
    "demo": {"common", "demo"},
}


def imported_packages(package: Path) -> set[str]:
    """Return the packages of `converters` that the modules of one import."""
    return {
        (node.module or "").split(".")[1]
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("converters.")
    }


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_stands_on(package: str) -> None:
    assert imported_packages(ROOT / package) <= MAY_IMPORT[package]


def test_every_package_has_its_rule() -> None:
    assert {file.parent.name for file in ROOT.glob("*/__init__.py")} == MAY_IMPORT.keys()
