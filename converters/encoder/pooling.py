"""Pooling as it is asked for, and for the rest as `backends.encoder.pooling` reads it."""

from __future__ import annotations

from backends.contract.errors import InvalidField
from backends.encoder import pooling
from backends.encoder.pooling import Method, SentenceVector
from converters.errors import OptionError
from converters.options import Pooling

__all__ = ["Method", "SentenceVector", "sentence_vector"]


def sentence_vector(model: str, asked: Pooling, normalize: bool | None) -> SentenceVector:
    """Raises `OptionError`."""
    try:
        return pooling.sentence_vector(model, asked, normalize)
    except InvalidField as error:
        raise OptionError(error.field, str(error).partition(": ")[2]) from error
