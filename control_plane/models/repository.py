"""From what a user calls a model to an entry of a Triton model repository."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from control_plane.models.architecture import WeightsKind, weights_kind
from control_plane.models.converter import ConversionFailed, convert
from control_plane.models.engine_settings import apply_onnx, apply_pytorch, apply_vllm, wants_gpu
from control_plane.settings import OnnxSettings, ServingSettings

logger = logging.getLogger(__name__)

DEFAULT_REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
CONFIG = "config.pbtxt"
PART_PARAMETERS = ("decoder", "encoder")
"""Parameters of a Python model that name the Triton model, beside it, which it calls."""

FRONT_PARAMETERS = frozenset({"stream_interval_ms", "allow_control_tokens"})
"""Of what stands in front of every engine: settings of the same names."""

_MODULES = {"causal_lm": "model", "encoder": "encoder_model"}
"""Of `backends.pytorch`."""

_ON_THE_CPU = (
    "onnx.providers: %s runs on the CPU, as language models on this server do: for a GPU they need "
    "Triton's own onnxruntime backend"
)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelError(ValueError):
    """A model cannot be found or its configuration cannot be read."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model in a repository, with the user's settings in its configuration.

    ``configs``: the Triton models that it consists of, in the order in which they are loaded; the
    last one is the model itself, those before it are what it calls.
    """

    name: str  # Triton's
    served_name: str
    configs: Mapping[str, dict[str, Any]]

    @property
    def config(self) -> dict[str, Any]:
        return self.configs[self.name]


def engine_of(config: ModelConfig) -> str:
    """Of a Python model: its parameter ``backend_type``, or pytorch."""
    if "backend_type" not in config.parameters:  # reading a missing entry would make it
        return "pytorch"
    engine: str = config.parameters["backend_type"].string_value
    return engine


class Repository:
    """Entries for what users name: ``fixed`` holds models; ``scratch`` gets those made here.

    ``config_file``: of a model's folder, the configuration that the server takes.
    """

    def __init__(
        self,
        fixed: Path,
        scratch: Path,
        config_file: Callable[[Path], Path] = lambda folder: folder / CONFIG,
    ) -> None:
        self._fixed = fixed
        self._scratch = scratch
        self._config_file = config_file

    @property
    def folders(self) -> tuple[Path, Path]:
        return self._fixed, self._scratch

    def names(self) -> list[str]:
        return sorted(p.parent.name for p in self._fixed.glob(f"*/{CONFIG}"))

    def resolve(self, model: str, settings: ServingSettings) -> ModelEntry:
        """``model``: a name here, a Triton model's folder, a weights folder, or a hub id.

        Of a name here, the model for ``backend_type`` is taken where there is one: ``demo_onnx``
        for ``demo``. Raises `ModelError`.
        """
        folder = Path(model).expanduser()
        for name in (f"{model}_{settings.backend_type}", model):
            if name in self.names():
                self._check_engine(self._fixed / name, model, settings)
                return self._entry(self._fixed / name, settings)
        if (folder / CONFIG).is_file():
            folder = folder.resolve()
            self._check_engine(folder, model, settings)
            is_here = folder.parent == self._fixed.resolve()
            return self._entry(folder if is_here else self._link(folder), settings)
        if (folder / "config.json").is_file():
            folder = folder.absolute()
            return self._of_weights(str(folder), folder.name, settings)
        if HUB_ID.fullmatch(model) and not folder.exists():
            return self._of_weights(model, model, settings)
        raise ModelError(
            f"model: `{model}` is neither a model in the repository "
            f"({', '.join(self.names()) or 'which is empty'}), nor a folder with `config.json` "
            f"or `{CONFIG}`, nor a hub id such as `Qwen/Qwen2.5-0.5B-Instruct`"
        )

    def _check_engine(self, folder: Path, model: str, settings: ServingSettings) -> None:
        """Where the user has named an engine, the default model is not served by another."""
        if model != settings.model or "backend_type" not in settings.model_fields_set:
            return
        parameters = self._read(folder).parameters
        engine = "onnx" if "decoder" in parameters else None
        if "backend_type" in parameters:
            engine = parameters["backend_type"].string_value
        if engine not in (None, settings.backend_type):
            raise ModelError(
                f"model: `{folder.name}` runs on {engine}, and serving.backend_type asks for "
                f"{settings.backend_type}"
            )

    def _link(self, folder: Path) -> Path:
        self._check_free(folder.name)
        link = self._scratch / folder.name
        if not link.exists():
            link.symlink_to(folder)
        elif link.resolve() != folder:
            raise ModelError(f"model: the name `{folder.name}` is taken by another folder")
        return link

    def _target(self, served_name: str) -> Path:
        """The folder of a new entry."""
        name = re.sub(r"[^\w.-]", "--", served_name)
        self._check_free(name)
        return self._scratch / name

    def _check_free(self, name: str) -> None:
        """Triton takes a name from one of its repositories alone."""
        if (self._fixed / name / CONFIG).is_file():
            raise ModelError(
                f"model: the name `{name}` is taken by a model of the repository {self._fixed.name}"
            )

    def _of_weights(self, weights: str, served_name: str, settings: ServingSettings) -> ModelEntry:
        kind = weights_kind(weights)
        if settings.backend_type == "onnx":
            folder = self._convert(weights, served_name, kind, settings.onnx)
            return self._entry(folder, settings, served_name)
        if kind == "classifier":
            raise ModelError(
                f"model: {served_name} is a classifier, which only ONNX serves: convert it with "
                f"`triad convert --kind encoder`"
            )
        # vLLM is for language models here.
        engine = settings.backend_type if kind == "causal_lm" else "pytorch"
        module = f"{engine}.{_MODULES[kind]}"
        return self._entry(self._generate(weights, served_name, engine, module), settings)

    def _convert(
        self, weights: str, served_name: str, kind: WeightsKind, settings: OnnxSettings
    ) -> Path:
        target = self._target(served_name)
        if not target.exists():
            options = {
                "--kind": "decoder" if kind == "causal_lm" else "encoder",
                "--output": str(self._scratch),
                "--name": target.name,
                "--precision": settings.precision,
                "--max-num-seqs": str(settings.max_num_seqs),
            }
            if settings.max_model_len is not None:
                options["--max-context"] = str(settings.max_model_len)
            arguments = [weights, *(part for pair in options.items() for part in pair)]
            if settings.allow_pickle_weights:
                arguments.append("--allow-pickle-weights")
            logger.info("converting %s to ONNX", served_name)
            try:
                convert(arguments)
            except ConversionFailed as error:
                raise ModelError(f"model: {served_name} cannot be converted: {error}") from None
        return target

    def _generate(self, weights: str, served_name: str, engine: str, module: str) -> Path:
        """A new entry, made aside and renamed into place, so that no half of one is ever seen."""
        target = self._target(served_name)
        config = ModelConfig(backend="python")
        config.instance_group.add(kind="KIND_MODEL" if engine == "vllm" else "KIND_CPU", count=1)
        config.parameters["backend_type"].string_value = engine
        config.parameters["model"].string_value = weights
        config.parameters["served_model_name"].string_value = served_name
        text = text_format.MessageToString(config)
        if target.exists():
            if (target / CONFIG).read_text() != text:
                raise ModelError(f"model: the name `{served_name}` is taken by other weights")
            return target
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=self._scratch))
        (aside / "1").mkdir()
        (aside / "1" / "model.py").write_text(
            f"from backends.{module} import TritonPythonModel  # noqa: F401\n"
        )
        (aside / CONFIG).write_text(text)
        return aside.rename(target)

    def _entry(
        self, folder: Path, settings: ServingSettings, served_name: str | None = None
    ) -> ModelEntry:
        config = self._read(folder)
        if served_name is not None:
            config.parameters["served_model_name"].string_value = served_name
        configs = {}
        parts = [key for key in PART_PARAMETERS if key in config.parameters]
        for key in parts:
            name = config.parameters[key].string_value
            called = self._finished(self._read(self._part(folder, key, name)), settings)
            if key == "decoder" and _runs_in_front(called):
                if wants_gpu(settings.onnx):
                    logger.warning(_ON_THE_CPU, folder.name)
                config.parameters["decoder_config"].string_value = json.dumps(called)
            else:
                configs[name] = called
        for key in FRONT_PARAMETERS & settings.model_fields_set:
            if config.backend == "python":
                value = getattr(settings, key)
                config.parameters[key].string_value = json.dumps(value)
        configs[folder.name] = self._finished(config, settings, alone=not parts)
        served = config.parameters["served_model_name"].string_value or folder.name
        return ModelEntry(folder.name, served, configs)

    def _part(self, folder: Path, key: str, name: str) -> Path:
        """The folder of the model that the one in ``folder`` calls."""
        part = folder.resolve().parent / name
        if not (part / CONFIG).is_file():
            raise ModelError(
                f"model: {folder.name}/{CONFIG} names `{name}` as its {key}, and there is no such "
                f"model beside it"
            )
        return part if part.parent == self._fixed.resolve() else self._link(part)

    def _read(self, folder: Path) -> ModelConfig:
        file = self._config_file(folder)
        try:
            return text_format.Parse(file.read_text(), ModelConfig())
        except text_format.ParseError as error:
            name = file.relative_to(folder.parent)
            raise ModelError(f"model: {name} cannot be read: {error}") from None

    @staticmethod
    def _finished(
        config: ModelConfig, settings: ServingSettings, *, alone: bool = False
    ) -> dict[str, Any]:
        """As Triton's load call takes it. ``alone``: it calls no other model."""
        try:
            if config.backend == "onnxruntime":
                apply_onnx(config, settings.onnx)
            elif alone and engine_of(config) == "vllm":
                apply_vllm(config, settings.vllm)
            elif alone:
                apply_pytorch(config, settings.pytorch)
        except ValueError as error:
            raise ModelError(f"serving.{error}") from None
        values: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
        return values


def _runs_in_front(decoder: Mapping[str, Any]) -> bool:
    """Whether the model that calls a decoder may run its graph itself, without a process between.

    ``kv_cache`` is of our stand-in for Triton's onnxruntime backend alone, which is a Python
    process as well.
    """
    kinds = {group.get("kind") for group in decoder.get("instance_group", [])}
    return "kv_cache" in decoder.get("parameters", {}) and "KIND_GPU" not in kinds
