"""What users call a model: a name in the repository, a folder, or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import parameters as keys
from control_plane.engines.entry import CONFIG, ModelError, parameter

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """The folder of a Triton model, which has a ``config.pbtxt``."""

    folder: Path


@dataclass(frozen=True, slots=True)
class HuggingFaceModel:
    """Weights: a folder with ``config.json``, or a hub id. ``name``: what clients call it."""

    source: str
    name: str


def find_source(model: str, repository: Path) -> Entry | HuggingFaceModel:
    """Return what ``model`` stands for. Raises `ModelError` where it is nothing that is there.

    ``model``: a name in ``repository``, a Triton model's folder, a weights folder, or a hub id.
    """
    names = entry_names(repository)
    folder = Path(model).expanduser()
    if model in names:
        return Entry(repository / model)
    if (folder / CONFIG).is_file():
        return Entry(folder.resolve())
    if (folder / "config.json").is_file():
        return HuggingFaceModel(str(folder.absolute()), folder.absolute().name)
    if _HUB_ID.fullmatch(model) and not folder.exists():
        return HuggingFaceModel(model, model)
    raise ModelError(
        f"model: `{model}` is neither a model in the repository "
        f"({', '.join(names) or 'which is empty'}), nor a folder with `config.json` "
        f"or `{CONFIG}`, nor a hub id such as `Qwen/Qwen2.5-0.5B-Instruct`"
    )


def entry_names(repository: Path) -> list[str]:
    """Return the names of the models in a repository."""
    return sorted(path.parent.name for path in repository.glob(f"*/{CONFIG}"))


def find_weights(model: str, repository: Path) -> str:
    """Return the folder of a model's weights, or their hub id.

    ``model``: as `find_source` takes it. Raises `ModelError`.
    """
    source = find_source(model, repository)
    return source.source if isinstance(source, HuggingFaceModel) else weights_of_entry(source)


def weights_of_entry(entry: Entry) -> str:
    """Return the weights that an entry's parameter ``model`` names.

    They are a folder in the entry's newest version, a folder elsewhere, or a hub id. Raises
    `ModelError` where there are none.
    """
    folder = entry.folder
    try:
        config = text_format.Parse((folder / CONFIG).read_text(), ModelConfig())
    except text_format.ParseError as error:
        raise ModelError(f"model: {folder.name}/{CONFIG} cannot be read: {error}") from None
    value = parameter(config, keys.MODEL) or keys.DEFAULT_MODEL
    versions = (path for path in folder.iterdir() if path.name.isdigit())
    newest = max(versions, key=lambda path: int(path.name), default=folder)
    for path in (newest / value, Path(value)):
        if (path / "config.json").is_file():
            return str(path.absolute())
    if _HUB_ID.fullmatch(value):
        return value
    raise ModelError(f"model: `{folder.name}` has no weights in its folder `{value}`")
