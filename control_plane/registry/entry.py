"""From what a user calls a model to an entry of a Triton model repository."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from control_plane.settings import PytorchSettings

DEFAULT_REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
CONFIG = "config.pbtxt"
_PRECISION = frozenset({"torch_dtype", "optimization_level", "quantization"})
"""They say one thing together: whoever sets one of them means all."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelError(ValueError):
    """A model cannot be found or its configuration cannot be read."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model in a repository. ``config`` is its configuration, with the user's settings in it."""

    name: str  # Triton's
    served_name: str
    config: dict[str, Any]


class Repository:
    """Entries for what users name: ``fixed`` holds models; ``scratch`` gets those made here."""

    def __init__(self, fixed: Path, scratch: Path) -> None:
        self._fixed = fixed
        self._scratch = scratch

    @property
    def folders(self) -> tuple[Path, Path]:
        return self._fixed, self._scratch

    def names(self) -> list[str]:
        return sorted(p.parent.name for p in self._fixed.glob(f"*/{CONFIG}"))

    def resolve(self, model: str, settings: PytorchSettings) -> ModelEntry:
        """``model``: a name here, a Triton model's folder, a weights folder, or a hub id.

        Raises `ModelError`.
        """
        folder = Path(model).expanduser()
        if model in self.names():
            return self._entry(self._fixed / model, settings)
        if (folder / CONFIG).is_file():
            return self._entry(self._link(folder.resolve()), settings)
        if (folder / "config.json").is_file():
            folder = folder.absolute()
            return self._entry(self._generate(str(folder), folder.name), settings)
        if HUB_ID.fullmatch(model) and not folder.exists():
            return self._entry(self._generate(model, model), settings)
        raise ModelError(
            f"model: `{model}` is neither a model in the repository "
            f"({', '.join(self.names()) or 'which is empty'}), nor a folder with `config.json` "
            f"or `{CONFIG}`, nor a hub id such as `Qwen/Qwen2.5-0.5B-Instruct`"
        )

    def _link(self, folder: Path) -> Path:
        link = self._scratch / folder.name
        if not link.exists():
            link.symlink_to(folder)
        elif link.resolve() != folder:
            raise ModelError(f"model: the name `{folder.name}` is taken by another folder")
        return link

    def _generate(self, weights: str, served_name: str) -> Path:
        """A new entry, made aside and renamed into place, so that no half of one is ever seen."""
        target = self._scratch / re.sub(r"[^\w.-]", "--", served_name)
        config = ModelConfig(backend="python")
        config.instance_group.add(kind="KIND_CPU", count=1)
        config.parameters["model"].string_value = weights
        config.parameters["served_model_name"].string_value = served_name
        text = text_format.MessageToString(config)
        if target.exists():
            if (target / CONFIG).read_text() != text:
                raise ModelError(f"model: the name `{served_name}` is taken by other weights")
            return target
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=self._scratch))
        (aside / "1").mkdir()
        shutil.copyfile(DEFAULT_REPOSITORY / "demo" / "1" / "model.py", aside / "1" / "model.py")
        (aside / CONFIG).write_text(text)
        return aside.rename(target)

    @staticmethod
    def _entry(folder: Path, settings: PytorchSettings) -> ModelEntry:
        try:
            config = text_format.Parse((folder / CONFIG).read_text(), ModelConfig())
        except text_format.ParseError as error:
            raise ModelError(f"model: {folder.name}/{CONFIG} cannot be read: {error}") from None
        # What the user has set wins over the model's file; defaults do not.
        if settings.model_fields_set & _PRECISION:
            for key in _PRECISION:
                config.parameters.pop(key, None)
        for key in sorted(settings.model_fields_set):
            if (value := getattr(settings, key)) is not None:
                config.parameters[key].string_value = str(value)
        values = json_format.MessageToDict(config, preserving_proto_field_name=True)
        served = values.get("parameters", {}).get(
            "served_model_name", {"string_value": folder.name}
        )
        return ModelEntry(folder.name, served["string_value"], values)
