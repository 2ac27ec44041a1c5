"""A destination is what it was, or complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.common.destination import staging
from converters.common.errors import OptionError


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_text("old")
    with staging(tmp_path, ["model.onnx"]) as aside:
        (aside / "model.onnx").write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_text("old")
    with pytest.raises(RuntimeError), staging(tmp_path, ["model.onnx"]) as aside:
        (aside / "model.onnx").write_text("half of a new")
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staging(tmp_path / "a" / "b", ["model"]):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_a_repository_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(OptionError, match=r"output: .*model exists already"):
        staging(tmp_path, ["model"]).__enter__()
