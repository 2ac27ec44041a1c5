"""The pooling of an encoder's token vectors to one vector a text, read from the model's folder.

sentence-transformers lists a model's parts in ``modules.json``, with a folder for each:
https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from backends.contract.errors import InvalidField

Method: TypeAlias = Literal["mean", "cls", "none"]

_OLD_KEYS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


@dataclass(frozen=True, slots=True)
class SentenceVector:
    """The computation of a text's vector: the pooling ``method``, and then normalisation to length
    1 if ``normalize`` is true."""

    method: Method
    normalize: bool
    max_length: int | None = None
    """The number of tokens to which the model's own library truncates a text, if any."""


def sentence_vector(
    model: str, pooling: Method | Literal["auto"] = "auto", normalize: bool | None = None
) -> SentenceVector:
    """Return what was requested, and for the rest what the folder says, or else the normalised
    mean.

    ``model``: a folder or a hub id. Raises `InvalidField`.
    """
    modules = _modules(model)
    method: Method = "mean"
    if pooling != "auto":
        method = pooling
    elif "Pooling" in modules:
        method = _method(_read(model, f"{modules['Pooling']}/config.json"))
    length = (_read(model, "sentence_bert_config.json") or {}).get("max_seq_length")
    if normalize is None:
        normalize = "Normalize" in modules or "Transformer" not in modules
    return SentenceVector(method, normalize, length)


def _modules(model: str) -> dict[str, str]:
    """Return the folder of each module of the model, by the name of the module's class."""
    listed = _read(model, "modules.json")
    if listed is None:
        pooling = _read(model, "1_Pooling/config.json")
        return {} if pooling is None else {"Pooling": "1_Pooling"}
    modules = {str(part["type"]).rpartition(".")[2]: str(part["path"]) for part in listed}
    if unknown := modules.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise InvalidField("model", f"has a module `{min(unknown)}`, which cannot be served")
    return modules


def _method(config: dict[str, Any] | None) -> Method:
    config = config or {}
    modes = config.get("pooling_mode") or [
        _OLD_KEYS.get(key, key.removeprefix("pooling_mode_"))
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    methods = [modes] if isinstance(modes, str) else list(modes)
    if methods == ["mean"]:
        return "mean"
    if methods == ["cls"]:
        return "cls"
    raise InvalidField(
        "pooling", f"the model's is {' + '.join(methods) or 'unknown'}; must be mean, cls or none"
    )


def _read(model: str, name: str) -> Any:  # noqa: ANN401
    """Return the content of a JSON file of the model, or None where there is no such file."""
    from transformers.utils import cached_file

    try:
        path = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise InvalidField("model", str(error).partition("\n")[0]) from error
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
