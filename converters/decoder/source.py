"""The Hugging Face model that is exported, and what an export has to know of it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging as hf_logging

from backends.pytorch.weights import PickledWeights, from_pretrained
from converters.errors import ConversionError, OptionError
from converters.options import ExportOptions
from converters.source import ALLOWING_PICKLES

DEFAULT_CONTEXT = 4096
"""Tokens, where nothing else is asked for: the KV cache of every sequence has this size."""
SHORTEST_CONTEXT = 32
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of a token."""

    heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class Source:
    """``model`` computes in float32. ``context``: positions of the export's KV cache."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: list[LayerShape]
    context: int
    allow_pickle: bool = False

    @property
    def config(self) -> Any:  # noqa: ANN401
        return self.model.config

    @property
    def vocabulary(self) -> int:
        size: int = self.model.get_output_embeddings().weight.shape[0]
        return size

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def checkpoint_bytes(self) -> int:
        files = [*self.folder.glob("*.safetensors")] or self.folder.glob("*.bin")
        return sum(file.stat().st_size for file in files)

    @property
    def eos_token_ids(self) -> list[int]:
        ids = self.model.generation_config.eos_token_id
        if ids is None:
            ids = self.config.eos_token_id
        return [ids] if isinstance(ids, int) else sorted(ids or [])

    @property
    def windows(self) -> list[int]:
        """What local attention sees, in tokens, where that is less than the context."""
        config = self.config
        sizes = (getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size"))
        return [size for size in sizes if size and size < self.context]

    @property
    def rope_type(self) -> str:
        return _rope_type(self.model)

    def fresh(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model read again, for those who change it."""
        return _read(self.folder, dtype, self.allow_pickle)


def read_source(options: ExportOptions) -> Source:
    """Raises `OptionError` for a model or a context that cannot be."""
    allow_pickle = options.allow_pickle_weights
    folder = find(options.model, allow_pickle=allow_pickle)
    try:
        model = _read(folder, torch.float32, allow_pickle)
    except PickledWeights as error:
        raise OptionError("model", str(error).removeprefix("model: ")) from error
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(
            "model", f"{options.model} is no causal language model: {error}"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise OptionError("model", f"{options.model} has no tokenizer: {error}") from error
    context = _context(model, options.max_context)
    return Source(folder, model, tokenizer, _layer_shapes(model), context, allow_pickle)


def _read(folder: Path, dtype: torch.dtype, allow_pickle: bool) -> PreTrainedModel:
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()  # the stages of the export are shown instead
    try:
        model: PreTrainedModel = from_pretrained(
            AutoModelForCausalLM,
            str(folder),
            allow_pickle=allow_pickle,
            allowing=ALLOWING_PICKLES,
            dtype=dtype,
        )
    finally:
        if bars:
            hf_logging.enable_progress_bar()
    return model.eval()


def find(model: str, *, allow_pickle: bool) -> Path:
    """The folder of a model, which for a hub id is downloaded unless it was before."""
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


def _context(model: PreTrainedModel, asked: int | None) -> int:
    own, key = _own_context(model)
    if asked is None:
        return min(own, DEFAULT_CONTEXT)
    if not SHORTEST_CONTEXT <= asked <= own:
        raise OptionError(
            "max-context", f"must be from {SHORTEST_CONTEXT} to {own} ({key}), not {asked}"
        )
    return asked


def _own_context(model: PreTrainedModel) -> tuple[int, str]:
    """Tokens, and where the model's configuration says so."""
    config, key = model.config, "max_position_embeddings"
    own: int | None = getattr(config, key, None)
    if not own:
        raise ConversionError(f"{type(model).__name__} does not say how long a context it has")
    if _rope_type(model) == "longrope":
        # Beyond it, other rotary factors hold for the whole sequence, also for keys in the cache.
        key = "original_max_position_embeddings"
        own = int(getattr(config, key, None) or config.rope_parameters[key])
    return own, key


def _rope_type(model: PreTrainedModel) -> str:
    parameters = getattr(model.config, "rope_parameters", None) or {}
    kind: str = parameters.get("rope_type", "default")
    return kind


@torch.inference_mode()
def _layer_shapes(model: PreTrainedModel) -> list[LayerShape]:
    """What each layer caches, from a pass over two tokens."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ConversionError(
            f"{type(model).__name__} takes no position_ids: it cannot be exported"
        )
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[0, 1]]), **{cache_argument(model): cache}, use_cache=True)
    shapes = []
    for layer in cache.layers:
        # Sliding layers are dynamic ones too; recurrent states are not.
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise ConversionError(
                f"{type(model).__name__} keeps a {type(layer).__name__}: only models whose layers "
                "all keep keys and values can be exported"
            )
        heads, _, key_dim = layer.keys.shape[1:]
        shapes.append(LayerShape(heads, key_dim, layer.values.shape[-1]))
    return shapes


def cache_argument(model: PreTrainedModel) -> str:
    """The name that this release of transformers gives the KV cache."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
