"""Reading of the Hugging Face models that are exported."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as hf_logging

from backends.pytorch.weights import PickledWeights, from_pretrained
from converters.common.errors import ConversionError, OptionError

PICKLE_OPTION = "--allow-pickle-weights"


def read_config(name: str) -> Any:  # noqa: ANN401
    """Return the configuration of a folder or hub id. Raises `OptionError`, also for an
    encoder-decoder model, which no export here supports."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OptionError("model", _first_line(error)) from error
    if config.is_encoder_decoder:
        raise OptionError(
            "model", f"{config.model_type} is an encoder-decoder model, which cannot be exported"
        )
    return config


def architecture(config: Any) -> str:  # noqa: ANN401
    """Return the class that the checkpoint was saved from: ``BertForSequenceClassification``."""
    names = config.architectures or [""]
    return str(names[0])


def read_model(
    name: str,
    class_name: str,
    config: Any = None,  # noqa: ANN401
    *,
    allow_pickle: bool,
) -> PreTrainedModel:
    """Return the model in float32. ``class_name``: a class of transformers; ``config``: used in
    place of the model's own.

    Raises `OptionError`, and `ConversionError` where the checkpoint lacks weights that the model
    computes with.
    """
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        raise OptionError("model", f"transformers has no class `{class_name}`")
    try:
        model, info = load_weights(
            model_class,
            name,
            torch.float32,
            allow_pickle=allow_pickle,
            config=config,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise OptionError("model", _first_line(error)) from error
    _require_weights(class_name, info["missing_keys"])
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def load_weights(
    model_class: Any,  # noqa: ANN401
    name: str,
    dtype: torch.dtype,
    *,
    allow_pickle: bool,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Return ``model_class.from_pretrained(name, **options)``, without its progress bars: the
    stages of the export are shown instead.

    Raises `OptionError` for pickled weights that are not allowed, and what ``from_pretrained``
    raises.
    """
    had_bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        return from_pretrained(
            model_class,
            name,
            allow_pickle=allow_pickle,
            allowing=PICKLE_OPTION,
            dtype=dtype,
            **options,
        )
    except PickledWeights as error:
        raise OptionError("model", str(error).removeprefix("model: ")) from error
    finally:
        if had_bars:
            hf_logging.enable_progress_bar()


def _require_weights(class_name: str, missing_keys: list[str]) -> None:
    """Raise `ConversionError` where ``missing_keys`` has weights that the model computes with."""
    # Encoders come without the pooler of their pre-training, which nothing here computes with.
    unused = "pooler" if class_name == "AutoModel" else None
    if missing := sorted(key for key in missing_keys if unused not in key.split(".")):
        raise ConversionError(
            f"the checkpoint has no weights for {len(missing)} parameters of {class_name}, such "
            f"as `{missing[0]}`"
        )


def read_tokenizer(name: str) -> Any:  # noqa: ANN401
    """Return the tokenizer of a folder or hub id. Raises `OptionError`."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OptionError(
            "model", f"{name} has no tokenizer that can be read: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
