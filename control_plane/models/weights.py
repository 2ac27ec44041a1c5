"""Where the weights are of what users call a model."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from control_plane.models.repository import CONFIG, HUB_ID, ModelError


def find_weights(model: str, repository: Path) -> str:
    """A folder that is there, or a hub id.

    ``model``: a name in ``repository``, a Triton model's folder, a weights folder, or a hub id.
    Raises `ModelError`.
    """
    folder = Path(model).expanduser()
    if "/" not in model and (repository / model / CONFIG).is_file():
        return _of_entry(repository / model)
    if (folder / CONFIG).is_file():
        return _of_entry(folder)
    if (folder / "config.json").is_file():
        return str(folder.absolute())
    if HUB_ID.fullmatch(model) and not folder.exists():
        return model
    names = sorted(path.parent.name for path in repository.glob(f"*/{CONFIG}"))
    raise ModelError(
        f"model: `{model}` is neither a model in the repository ({', '.join(names) or 'none'}), "
        f"nor a folder with `config.json` or `{CONFIG}`, nor a hub id"
    )


def _of_entry(folder: Path) -> str:
    """What the entry's parameter ``model`` says: a folder in its newest version, or elsewhere."""
    try:
        config = text_format.Parse((folder / CONFIG).read_text(), ModelConfig())
    except text_format.ParseError as error:
        raise ModelError(f"model: {folder.name}/{CONFIG} cannot be read: {error}") from None
    value = config.parameters["model"].string_value or "weights"
    versions = (path for path in folder.iterdir() if path.name.isdigit())
    newest = max(versions, key=lambda path: int(path.name), default=folder)
    for path in (newest / value, Path(value)):
        if (path / "config.json").is_file():
            return str(path.absolute())
    if HUB_ID.fullmatch(value):
        return value
    raise ModelError(f"model: `{folder.name}` has no weights in its folder `{value}`")
