"""Print what the project and some of its extras require: `python docs/tools/extras.py dev docs`.

pip cannot verify the hash of a folder. So the Makefile installs these requirements, each with its
hash, and then the project alone. This needs nothing but Python.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(extras: list[str]) -> list[str]:
    """Return the requirements of the project's build, of itself and of `extras`."""
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    document = tomllib.loads(text)
    project = document["project"]
    wanted = [*document["build-system"]["requires"], *project["dependencies"]]
    return [*wanted, *(one for e in extras for one in project["optional-dependencies"][e])]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(sys.argv[1:]))
