"""Keeps to itself what exporters and quantizers say about their own inner workings."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_TALKATIVE = ("", "onnx_ir", "onnxscript", "torch.onnx")


@contextmanager
def quiet() -> Iterator[None]:
    """Hides warnings of deprecations in their own code, logs below errors, and what they print:
    nothing that a user of ours could act on. Leaves logging as it was, even when a package that is
    imported meanwhile sets it up, as onnxruntime's quantizers do."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    keeper = logging.NullHandler()
    logging.getLogger().addHandler(keeper)  # logging.basicConfig does nothing where there is one
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.getLogger().removeHandler(keeper)
