"""What is missing on a machine is said in one sentence, by `make` and by the embedded server."""

from __future__ import annotations

import platform
import subprocess
import sysconfig
from pathlib import Path

import pytest

from control_plane.embedded import installation
from control_plane.embedded.installation import TritonMissing
from tests.support.server import ROOT


def test_the_wheel_s_server_is_found(tmp_path: Path) -> None:
    found = installation.find(tmp_path)
    assert found.binary.name == "tritonserver"
    python = tmp_path / "backends" / "python"
    assert (python / "libtriton_python.so").is_file()
    assert (python / "triton_python_backend_stub").is_file()
    assert (tmp_path / "backends" / "onnxruntime" / "model.py").is_file()


def test_a_model_may_have_a_configuration_for_the_wheel_s_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, both = tmp_path / "plain", tmp_path / "both"
    (both / "configs").mkdir(parents=True)
    (both / "configs" / "embedded.pbtxt").touch()
    from_wheel = installation.find(tmp_path)
    assert from_wheel.config_file(both) == both / "configs" / "embedded.pbtxt"
    assert from_wheel.config_file(plain) == plain / "config.pbtxt"
    (tmp_path / "tritonserver").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installation.find(tmp_path).config_file(both) == both / "config.pbtxt"


def test_a_server_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "tritonserver"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installation.find(tmp_path).binary == server


def test_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(TritonMissing, match=r"x86-64, not on linux on aarch64.*triton\.endpoints"):
        installation.find(tmp_path)


def test_no_shared_libpython(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(installation.sys, "version_info", _Version(3, 12))  # type: ignore[attr-defined]
    with pytest.raises(TritonMissing, match=r"needs libpython3\.12\.so\.1\.0.*apt-get install"):
        installation.find(tmp_path)


def test_a_python_without_a_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.sys, "version_info", _Version(3, 14))  # type: ignore[attr-defined]
    with pytest.raises(TritonMissing, match=r"supports Python 3\.11 to 3\.13, not 3\.14"):
        installation.find(tmp_path)


class _Version(tuple[int, int]):
    def __new__(cls, major: int, minor: int) -> _Version:
        return super().__new__(cls, (major, minor))

    major = property(lambda self: self[0])
    minor = property(lambda self: self[1])


WITHOUT_VENV = """#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; esac
exec python3 "$@"
"""
TOO_OLD = """#!/bin/sh
case "$2" in *version_info*) exit 1 ;; esac
echo "Python 3.9.2"
"""


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "is not installed"),
        (WITHOUT_VENV, "Python's venv module is missing"),
        (TOO_OLD, "Python 3.11 to 3.13 is needed, not Python 3.9.2"),
    ],
)
@pytest.mark.process
def test_make_says_what_is_missing(tmp_path: Path, script: str | None, says: str) -> None:
    python = tmp_path / "python"
    if script is not None:
        python.write_text(script)
        python.chmod(0o755)
    done = subprocess.run(
        ["make", "serve", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert says in done.stdout
    assert not (tmp_path / "venv").exists()
