"""Model folders whose engines fail on request: see `tests.support.scripted.faults`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.server import ROOT, SCRIPTED, WEIGHTS

REPOSITORY = ROOT / "model_repository"

_MODEL = """
import sys
from pathlib import Path

sys.path[:0] = [{root!r}, str(Path(__file__).parent)]

from tests.support.scripted.{mixin_module} import {mixin}
from {engine} import TritonPythonModel as EngineModel


class TritonPythonModel({mixin}, EngineModel):
    pass
"""
_SCRIPTED = """
    def prompt_text(self, ids):
        return bytes(ids).decode()
"""


def write_model(entry: Path, engine: str, *, encoder: bool = False) -> Path:
    """Write the ``model.py`` of an entry. ``engine``: the module of the engine's own class."""
    mixin = ("faulty_encoder", "FaultyEncoder") if encoder else ("faults", "FaultyModel")
    text = _MODEL.format(root=str(ROOT), mixin_module=mixin[0], mixin=mixin[1], engine=engine)
    (entry / "1" / "model.py").write_text(text)
    return entry


def pytorch(folder: Path, name: str) -> Path:
    entry = folder / name
    (entry / "1").mkdir(parents=True)
    shutil.copy(REPOSITORY / "demo" / "config.pbtxt", entry)
    (entry / "1" / "weights").symlink_to(WEIGHTS)
    return write_model(entry, "backends.pytorch.model")


def onnx(folder: Path, name: str) -> Path:
    for part in ("", "_decoder"):
        shutil.copytree(REPOSITORY / f"demo_onnx{part}", folder / f"{name}{part}")
    _replace(folder / name / "config.pbtxt", "demo_onnx_decoder", f"{name}_decoder")
    return write_model(folder / name, "backends.onnx.model")


def vllm(repository: Path) -> None:
    """Write the demo model on vLLM to ``repository``: its own files, but that it fails on request.

    It takes so long to load that it is the one of all tests.
    """
    entry = repository / "demo_vllm"
    (entry / "1").mkdir(parents=True)
    (repository / "demo").symlink_to(REPOSITORY / "demo")
    shutil.copy(REPOSITORY / entry.name / "config.pbtxt", entry)
    shutil.copy(REPOSITORY / entry.name / "1" / "model.py", entry / "1" / "own_model.py")
    write_model(entry, "own_model")


def encoder(folder: Path, embedder: Path) -> Path:
    """``embedder``: the exported model that is copied, with its name and the graph beside it."""
    shutil.copytree(embedder.parent, folder, dirs_exist_ok=True)
    return write_model(folder / embedder.name, "backends.encoder.model", encoder=True)


def scripted(folder: Path, name: str) -> Path:
    entry = folder / name
    shutil.copytree(SCRIPTED, entry)
    write_model(entry, "tests.support.scripted.model")
    with (entry / "1" / "model.py").open("a") as model:
        model.write(_SCRIPTED)
    return entry


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
