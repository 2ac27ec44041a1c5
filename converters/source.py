"""Reads Hugging Face models to be exported."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from backends.pytorch.weights import PickledWeights, from_pretrained
from converters.errors import ConversionError, OptionError

ALLOWING_PICKLES = "--allow-pickle-weights"


def read_config(name: str) -> Any:  # noqa: ANN401
    """``name``: a folder or a hub id. Raises `OptionError`."""
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OptionError("model", _first_line(error)) from error


def architecture(config: Any) -> str:  # noqa: ANN401
    """The class that the checkpoint was saved from: ``BertForSequenceClassification``."""
    names = config.architectures or [""]
    return str(names[0])


def read_model(
    name: str,
    class_name: str,
    config: Any = None,  # noqa: ANN401
    *,
    allow_pickle: bool,
) -> PreTrainedModel:
    """In float32. ``class_name``: a class of transformers; ``config``: in place of the model's.

    Raises `OptionError`, and `ConversionError` where the checkpoint lacks weights that the model
    computes with.
    """
    transformers.utils.logging.disable_progress_bar()
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        raise OptionError("model", f"transformers has no class `{class_name}`")
    try:
        model, info = from_pretrained(
            model_class,
            name,
            allow_pickle=allow_pickle,
            allowing=ALLOWING_PICKLES,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except PickledWeights as error:
        raise OptionError("model", str(error).removeprefix("model: ")) from error
    except (OSError, ValueError) as error:
        raise OptionError("model", _first_line(error)) from error
    # Encoders come without the pooler of their pre-training, which nothing here computes with.
    unused = "pooler" if class_name == "AutoModel" else None
    if missing := sorted(k for k in info["missing_keys"] if unused not in k.split(".")):
        raise ConversionError(
            f"the checkpoint has no weights for {len(missing)} parameters of {class_name}, such "
            f"as `{missing[0]}`"
        )
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def read_tokenizer(name: str) -> Any:  # noqa: ANN401
    """Raises `OptionError`."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OptionError("model", f"has no tokenizer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
