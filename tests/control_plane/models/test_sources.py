"""From what users call a model to its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.engines.entry import ModelError
from control_plane.models.sources import find_weights


def weights(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def entry(repository: Path, name: str, config: str = "") -> Path:
    folder = repository / name
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'backend: "python"\n{config}')
    return folder


def parameter(value: str) -> str:
    return f'parameters {{ key: "model" value {{ string_value: "{value}" }} }}'


def test_a_name_has_the_weights_of_its_newest_version(tmp_path: Path) -> None:
    folder = entry(tmp_path, "demo")
    weights(folder / "9" / "weights")
    newest = weights(folder / "10" / "weights")
    assert find_weights("demo", tmp_path) == str(newest)
    assert find_weights(str(folder), Path("/nowhere")) == str(newest)


def test_an_entry_may_point_elsewhere(tmp_path: Path) -> None:
    elsewhere = weights(tmp_path / "elsewhere")
    entry(tmp_path, "a", parameter(str(elsewhere)))
    entry(tmp_path, "b", parameter("org/model"))
    assert find_weights("a", tmp_path) == str(elsewhere)
    assert find_weights("b", tmp_path) == "org/model"


def test_folders_and_hub_ids(tmp_path: Path) -> None:
    folder = weights(tmp_path / "model")
    assert find_weights(str(folder), tmp_path) == str(folder)
    assert find_weights("org/model", tmp_path) == "org/model"


def test_what_is_not_there(tmp_path: Path) -> None:
    entry(tmp_path, "empty")
    with pytest.raises(ModelError, match="`empty` has no weights in its folder `weights`"):
        find_weights("empty", tmp_path)
    with pytest.raises(ModelError, match=r"`nothing` is neither .* repository \(empty\)"):
        find_weights("nothing", tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.pbtxt").write_text("backend: ")
    with pytest.raises(ModelError, match=r"broken/config\.pbtxt cannot be read"):
        find_weights("broken", tmp_path)
