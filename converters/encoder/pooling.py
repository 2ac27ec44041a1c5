"""The pooling that is exported: as the options say, otherwise as the model's folder says."""

from __future__ import annotations

from backends.contract.errors import InvalidField
from backends.encoder import pooling
from backends.encoder.pooling import Method, SentenceVector
from converters.common.errors import OptionError
from converters.common.options import Pooling

__all__ = ["Method", "SentenceVector", "sentence_vector"]


def sentence_vector(model: str, method: Pooling, normalize: bool | None) -> SentenceVector:
    """Return what `backends.encoder.pooling` makes of the options. Raises `OptionError`."""
    try:
        return pooling.sentence_vector(model, method, normalize)
    except InvalidField as error:
        raise OptionError(error.field, str(error).partition(": ")[2]) from error
