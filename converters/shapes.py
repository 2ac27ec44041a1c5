"""Shapes and axes as the command line takes them."""

from __future__ import annotations

import json

from converters.errors import OptionError


def read_shape(text: str) -> tuple[int, ...]:
    """``"1,512"``. Raises `OptionError`."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise OptionError(
            "input-shape", f"must be numbers with commas, such as 1,512, not {text[:64]}"
        ) from None


def read_axes(text: str) -> dict[str, dict[int, str]]:
    """``{"input_ids": {"0": "batch_size"}}``. Raises `OptionError`."""
    try:
        return {
            str(name): {int(axis): str(label) for axis, label in axes.items()}
            for name, axes in json.loads(text).items()
        }
    except (ValueError, AttributeError):
        raise OptionError(
            "dynamic-axes",
            'must be JSON such as {"input_ids": {"0": "batch_size", "1": "sequence_length"}}',
        ) from None
