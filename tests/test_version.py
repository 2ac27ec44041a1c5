"""The version is the same wherever it is written."""

from __future__ import annotations

import re
import tomllib

from control_plane.version import VERSION
from tests.support.server import ROOT


def test_project_and_package_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_the_changelog_has_the_version_and_its_date() -> None:
    released = re.findall(
        r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    assert released[0][0] == VERSION
