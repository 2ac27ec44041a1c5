"""The language model that is exported, and the facts that an export needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from backends.pytorch.runner import Unsuitable, layer_shapes
from backends.pytorch.slots import LayerShape
from converters.common.errors import ConversionError, OptionError
from converters.common.options import ExportOptions
from converters.common.source import load_weights, read_tokenizer

DEFAULT_MAX_CONTEXT = 4096
"""In tokens, where the user asks for nothing else: the KV cache of every sequence has this size."""
MIN_CONTEXT = 32
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, slots=True)
class DecoderSource:
    """A language model, in float32, and its tokenizer. ``context``: the positions of the export's
    KV cache."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: list[LayerShape]
    context: int
    allow_pickle: bool = False

    @property
    def config(self) -> Any:  # noqa: ANN401
        """Return the model's configuration."""
        return self.model.config

    @property
    def vocabulary(self) -> int:
        """Return the number of logits, which may exceed the number of tokens."""
        size: int = self.model.get_output_embeddings().weight.shape[0]
        return size

    @property
    def parameters(self) -> int:
        """Return the number of the model's parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def checkpoint_bytes(self) -> int:
        """Return the size of the files with weights."""
        files = [*self.folder.glob("*.safetensors")] or self.folder.glob("*.bin")
        return sum(file.stat().st_size for file in files)

    @property
    def eos_token_ids(self) -> list[int]:
        """Return the tokens that end a generation."""
        ids = self.model.generation_config.eos_token_id
        if ids is None:
            ids = self.config.eos_token_id
        return [ids] if isinstance(ids, int) else sorted(ids or [])

    @property
    def windows(self) -> list[int]:
        """Return the windows of local attention, in tokens, that are smaller than the context."""
        config = self.config
        sizes = (getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size"))
        return [size for size in sizes if size and size < self.context]

    @property
    def rope_type(self) -> str:
        """Return the type of rotary embeddings, as transformers names it."""
        return _rope_type(self.model)

    def read_again(self, dtype: torch.dtype) -> PreTrainedModel:
        """Return another instance of the model, for a caller that changes it."""
        return _read(self.folder, dtype, self.allow_pickle)


def read_decoder(options: ExportOptions) -> DecoderSource:
    """Return the model that ``options`` name. Raises `ConversionError`."""
    allow_pickle = options.allow_pickle_weights
    folder = _find_folder(options.model, allow_pickle=allow_pickle)
    try:
        model = _read(folder, torch.float32, allow_pickle)
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(
            "model", f"{options.model} is no causal language model that can be read: {error}"
        ) from error
    tokenizer = read_tokenizer(str(folder))
    context = _context(model, options.max_context)
    return DecoderSource(folder, model, tokenizer, _layer_shapes(model), context, allow_pickle)


def _read(folder: Path, dtype: torch.dtype, allow_pickle: bool) -> PreTrainedModel:
    model: PreTrainedModel = load_weights(
        AutoModelForCausalLM, str(folder), dtype, allow_pickle=allow_pickle
    )
    return model.eval()


def _find_folder(model: str, *, allow_pickle: bool) -> Path:
    """Return the folder of a model, downloaded from the hub unless it was before. Raises
    `OptionError`."""
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder.absolute()
    if folder.exists():
        raise OptionError("model", f"{model} has no config.json")
    try:
        files = [*_FILES, "*.bin"] if allow_pickle else _FILES
        return Path(snapshot_download(model, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise OptionError(
            "model", f"{model} is neither a folder nor a hub id that can be read: {error}"
        ) from error


def _context(model: PreTrainedModel, requested: int | None) -> int:
    """Return the positions of the KV cache. Raises `OptionError`."""
    own, key = _own_context(model)
    if requested is None:
        return min(own, DEFAULT_MAX_CONTEXT)
    if not MIN_CONTEXT <= requested <= own:
        raise OptionError(
            "max-context", f"must be from {MIN_CONTEXT} to {own} ({key}), not {requested}"
        )
    return requested


def _own_context(model: PreTrainedModel) -> tuple[int, str]:
    """Return the model's longest sequence in tokens, and the key of its configuration that says
    so."""
    config, key = model.config, "max_position_embeddings"
    own: int | None = getattr(config, key, None)
    if not own:
        raise ConversionError(
            f"{type(model).__name__} cannot be exported: its configuration has no {key}"
        )
    if _rope_type(model) == "longrope":
        # Beyond it, other rotary factors hold for the whole sequence, also for keys in the cache.
        key = "original_max_position_embeddings"
        own = int(getattr(config, key, None) or config.rope_parameters[key])
    return own, key


def _rope_type(model: PreTrainedModel) -> str:
    parameters = getattr(model.config, "rope_parameters", None) or {}
    kind: str = parameters.get("rope_type", "default")
    return kind


def _layer_shapes(model: PreTrainedModel) -> list[LayerShape]:
    """Return what each layer caches. Raises `ConversionError` for layers that keep anything but
    keys and values."""
    try:
        return layer_shapes(model)
    except Unsuitable as error:
        raise ConversionError(f"{type(model).__name__} cannot be exported: {error}") from error
