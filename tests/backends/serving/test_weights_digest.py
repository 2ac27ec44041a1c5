"""The identity of weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save_file

from backends.serving.weights_digest import (
    MAX_WHOLE_BYTES,
    digest_or_none,
    weights_digest,
    weights_folder,
)


def model(folder: Path, *, bias: float = 0.0, tensors: int = 17) -> Path:
    """Write a model with a large safetensors file, in which one small tensor has a value."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    weights = {f"layer{i}": np.full(MAX_WHOLE_BYTES // 64, i, np.float32) for i in range(tensors)}
    save_file(weights | {"bias": np.full(8, bias, np.float32)}, folder / "model.safetensors")
    assert (folder / "model.safetensors").stat().st_size > MAX_WHOLE_BYTES
    return folder


def digest(folder: Path) -> str:
    return weights_digest({"model": folder})


def test_the_same_files_have_one_digest_wherever_they_are(tmp_path: Path) -> None:
    here, there = model(tmp_path / "a"), model(tmp_path / "b" / "c")
    (there / "README.md").write_text("of another revision")
    (there / ".cache").mkdir()
    (there / ".gitattributes").write_text("x")
    assert digest(here) == digest(there)
    (tmp_path / "link").symlink_to(here)
    assert digest(tmp_path / "link") == digest(here)


def write(name: str, text: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return change


def append(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    "change",
    [
        write("config.json", "{ }"),
        write("chat_template.jinja", "{{ messages }}"),
        write("additional_chat_templates/rag.jinja", "{{ messages }}"),
        lambda folder: (folder / "config.json").rename(folder / "config2.json"),
        append,
    ],
)
def test_other_files_have_another(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = model(tmp_path / "a")
    before = digest(folder)
    change(folder)
    assert digest(folder) != before


def test_a_change_of_one_small_tensor_of_a_large_file_is_found(tmp_path: Path) -> None:
    assert digest(model(tmp_path / "a")) != digest(model(tmp_path / "b", bias=1.0))


def test_a_large_file_of_another_format_is_sampled(tmp_path: Path) -> None:
    values = np.arange(MAX_WHOLE_BYTES // 4 + 1, dtype=np.float32)
    digests = set()
    for factor in (1, 1.001):
        (tmp_path / "model.onnx.data").write_bytes((values * np.float32(factor)).tobytes())
        digests.add(digest(tmp_path))
    assert len(digests) == 2


@pytest.mark.parametrize(
    "header", [b"no JSON", b"[1]", b'{"a": 1}', json.dumps({"a": {"data_offsets": "x"}}).encode()]
)
def test_a_header_that_cannot_be_read_is_no_error(tmp_path: Path, header: bytes) -> None:
    content = len(header).to_bytes(8, "little") + header + bytes(MAX_WHOLE_BYTES)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert digest(tmp_path)


def test_adapters_have_their_names(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(name)
    one, other = tmp_path / "a", tmp_path / "b"
    assert weights_digest({"x": one, "y": other}) != weights_digest({"x": other, "y": one})
    assert weights_digest({"x": one}) != weights_digest({"y": one})


def test_a_file_that_cannot_be_read_leaves_the_weights_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(f"{path}: not permitted")

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(Path, "open", refuse)
    assert digest_or_none({"model": tmp_path}) is None
    assert "not permitted" in caplog.text


def test_a_hub_s_model_is_in_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert weights_folder("org/name") == snapshot
    assert weights_folder("org/name", "abc") == snapshot
    assert weights_folder("org/name", "other") is None
    assert weights_folder("org/other") is None
    assert weights_folder("no/hub/id") is None
    assert weights_folder(str(snapshot)) == snapshot
