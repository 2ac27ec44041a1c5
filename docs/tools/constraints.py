"""Write the pinned versions and their hashes: `make constraints`.

`constraints.txt` has what every supported Python needs for the extras in `EXTRAS`; the list of
vLLM's environment, which is installed without resolving, gets hashes only. Versions stay as they
are where they still fit; `--upgrade` takes the newest. uv resolves, because it can do so for other
Pythons than its own and knows the hashes of all files of a version.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
VLLM = ROOT / "backends" / "vllm" / "requirements-cpu.txt"

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "3.11.5": ("embedded", "pytorch", "onnx", "convert", "dev", "docs", "lock"),
    "3.12": ("embedded", "pytorch", "onnx", "convert", "dev", "docs", "lock"),
    "3.13": ("embedded", "pytorch", "onnx"),
}
"""Extras by Python. On 3.13 onnx, of `convert`, needs numpy 2.1, which Triton 24.10 cannot have."""

PLATFORM = "x86_64-manylinux_2_35"
"""What the wheel of the embedded Triton needs. Hashes are those of all platforms."""

OF_TORCH = re.compile(r"torch|triton|cuda-.*|nvidia-(?!pytriton$).*")
"""PyTorch and what only its CUDA builds need: which build is right depends on the machine."""

BESIDES = ("pip", "setuptools>=77")
"""What installs the others, and builds the project."""

HEAD = """\
# The versions that this release was tested with, on Python 3.11, and the hashes of their files: the
# Makefile and the Dockerfiles install these. `make constraints` writes them.
# pip verifies hashes in constraints from release 26.1 on, so the Makefile installs this one first.
# PyTorch and its CUDA libraries are not here: which build is right depends on the machine (see
# TORCH and TORCH_INDEX in the Makefile).
"""


@dataclass(frozen=True, slots=True)
class Pin:
    """One version of a package, and the hashes of all its files."""

    name: str
    version: str
    hashes: tuple[str, ...]


Pins: TypeAlias = dict[str, Pin]


def parse_pins(text: str) -> Iterator[tuple[Requirement, tuple[str, ...]]]:
    """Yield each requirement of a requirements file, and its hashes."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        requirement, *hashes = line.split("--hash=")
        if requirement.strip():
            yield Requirement(requirement.strip()), tuple(h.strip() for h in hashes)


def compile_pins(arguments: Iterable[str], text: str = "") -> Pins:
    """Return what uv resolves: its `arguments`, and requirements in `text`."""
    with tempfile.TemporaryDirectory() as folder:
        (source := Path(folder) / "in.txt").write_text(text)
        command = ("uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header")
        found = subprocess.run(
            [sys.executable, "-m", *command, "--no-annotate", *arguments, str(source)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    pins = [
        Pin(canonicalize_name(requirement.name), str(requirement.specifier)[2:], hashes)
        for requirement, hashes in parse_pins(found.stdout)
    ]
    return {pin.name: pin for pin in pins}


def resolve(python: str, *, upgrade: bool) -> Pins:
    """Return the pins for one Python, without PyTorch's."""
    extras = [word for extra in EXTRAS[python] for word in ("--extra", extra)]
    platform = ("--python-version", python, "--python-platform", PLATFORM)
    kept = () if upgrade else ("-c", str(CONSTRAINTS))
    pins = compile_pins([*platform, *kept, *extras, "pyproject.toml"], "\n".join(BESIDES))
    return {name: pin for name, pin in pins.items() if not OF_TORCH.fullmatch(name)}


def lines(pin: Pin, marker: str = "") -> str:
    """Return a pin as a requirements file has it."""
    condition = f" ; {marker}" if marker else ""
    hashes = "".join(f" \\\n    --hash={one}" for one in sorted(pin.hashes))
    return f"{pin.name}=={pin.version}{condition}{hashes}\n"


def merge(pins: Mapping[str, Pins]) -> str:
    """Return the pins of several Pythons, with markers where their versions differ."""
    text = ""
    for name in sorted({name for resolved in pins.values() for name in resolved}):
        conditions: dict[Pin, list[str]] = {}
        for python, resolved in pins.items():
            if name in resolved:
                short = ".".join(python.split(".")[:2])
                conditions.setdefault(resolved[name], []).append(f'python_version == "{short}"')
        for pin, pythons in conditions.items():
            text += lines(pin, " or ".join(pythons) if len(conditions) > 1 else "")
    return text


def comments(file: Path) -> str:
    """Return the comment at the beginning of a file."""
    head = [line for line in file.read_text().splitlines(keepends=True) if line.startswith("#")]
    return "".join(head)


def hash_list(file: Path) -> str:
    """Return a complete list of requirements with hashes; PyTorch's has none."""
    wanted = [str(requirement) for requirement, _ in parse_pins(file.read_text())]
    torch = [text for text in wanted if OF_TORCH.fullmatch(Requirement(text).name)]
    others = "\n".join(text for text in wanted if text not in torch)
    pins = compile_pins(["--no-deps", "--python-version", "3.11.5"], others)
    text = "".join(lines(pin) for pin in pins.values())
    return comments(file) + "".join(f"{line}\n" for line in torch) + text


def main() -> None:
    """Write both files."""
    upgrade = "--upgrade" in sys.argv[1:]
    text = merge({python: resolve(python, upgrade=upgrade) for python in EXTRAS})
    CONSTRAINTS.write_text(HEAD + text)
    VLLM.write_text(hash_list(VLLM))


if __name__ == "__main__":
    main()
