"""What the containers' files say, as far as it can be told without Docker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.server import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
PUBLISHES = re.compile(r"(?:^|\s)(?:-p|--publish)[ =](\S+)")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_containers_do_not_run_as_root(file: Path) -> None:
    users = re.findall(r"^USER (\S+)$", file.read_text(), re.MULTILINE)
    assert users and users[-1] not in ("root", "0")
    (image,) = re.findall(r"^ARG \w+_IMAGE=(\S+)$", file.read_text(), re.MULTILINE)
    assert ":" in image and not image.endswith(":latest")


def test_examples_publish_to_this_machine_alone() -> None:
    texts = [*DOCKERFILES, ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    published = [p for file in texts for p in PUBLISHES.findall(file.read_text())]
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    published += [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) > 4
    assert not [p for p in published if not p.startswith("127.0.0.1:")]
