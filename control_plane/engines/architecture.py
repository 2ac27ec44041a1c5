"""The kinds of weights, told by their files alone: language model, encoder, classifier."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal, TypeAlias

logger = logging.getLogger(__name__)

WeightsKind: TypeAlias = Literal["causal_lm", "encoder", "classifier"]

_ENCODERS = frozenset(
    {
        *("albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta"),
        *("deberta-v2", "distilbert", "electra", "ernie", "eurobert", "ibert", "longformer"),
        *("luke", "mobilebert", "modernbert", "mpnet", "mra", "nystromformer", "rembert"),
        *("roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm-roberta"),
        *("xlm-roberta-xl", "xmod", "yoso"),
    }
)
"""Model types of transformers whose tokens look both ways, and that have no decoder."""

HUB_TIMEOUT = 5.0  # seconds

_GENERATE = ("ForCausalLM", "LMHeadModel")
_CLASSIFY = "ForSequenceClassification"


def weights_kind(model: str) -> WeightsKind:
    """Return the kind of the weights in a folder, or of a hub id, whose files are asked for.

    Where they cannot be read, they are taken for a language model's: the engine will say what is
    wrong with them.
    """
    config = _read(model, "config.json")
    if not isinstance(config, dict):
        config = {}
    names = config.get("architectures") or [""]
    if any(str(name).endswith(_CLASSIFY) for name in names):
        return "classifier"
    if _read(model, "modules.json") is not None:  # sentence-transformers'
        return "encoder"
    generates = any(str(name).endswith(_GENERATE) for name in names)
    return "encoder" if config.get("model_type") in _ENCODERS and not generates else "causal_lm"


def _read(model: str, name: str) -> Any:  # noqa: ANN401
    """Return a JSON file of the model, or None."""
    path = Path(model) / name if Path(model).is_dir() else _from_hub(model, name)
    try:
        return None if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _from_hub(model: str, name: str) -> Path | None:
    """Return a file of a hub's model, which is downloaded if need be, or None."""
    try:  # of the extra `pytorch`
        import huggingface_hub as hub
    except ModuleNotFoundError:
        return None
    cached = hub.try_to_load_from_cache(model, name)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None or hub.constants.HF_HUB_OFFLINE:  # known not to be there; not to be asked
        return None
    try:
        # A download would try for 20 s where no hub can be reached.
        hub.get_hf_file_metadata(hub.hf_hub_url(model, name), timeout=HUB_TIMEOUT)
        return Path(hub.hf_hub_download(model, name))
    except Exception as error:  # of whichever HTTP library it is built on
        logger.debug("%s of %s cannot be had: %s", name, model, error)
        return None
