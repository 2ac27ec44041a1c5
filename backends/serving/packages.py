"""The packages that a model's Python has to have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backends.contract.errors import EngineError


@contextmanager
def missing_ones_are_named() -> Iterator[None]:
    """Raise `EngineError`, which names the package, if one is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the package `{error.name}` is not installed in the Python that runs this model; "
            "docs/containers.md says what an image needs"
        ) from error
