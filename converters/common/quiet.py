"""Silence for exporters and quantizers, which report at length on their own inner workings."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_NOISY_LOGGERS = ("", "onnx_ir", "onnxscript", "torch.onnx")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings, logs below errors, and everything printed: nothing that a user could act on.

    Leaves logging as it was, even when a package that is imported in the block configures it, as
    onnxruntime's quantizers do.
    """
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    placeholder = logging.NullHandler()
    # logging.basicConfig does nothing where the root logger has a handler.
    logging.getLogger().addHandler(placeholder)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.getLogger().removeHandler(placeholder)
