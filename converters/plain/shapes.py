"""The shape of a plain export's inputs: as the command line gives it, and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from converters.common.errors import OptionError
from converters.common.options import ExportOptions

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("logits", "last_hidden_state")
"""The outputs that can be exported; a model's first one is."""

_AXES_EXAMPLE = '{"input_ids": {"0": "batch_size", "1": "sequence_length"}}'


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the numbers of ``1,512``. Raises `OptionError`."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise OptionError(
            "input-shape",
            f"must be numbers with commas between them, such as 1,512, not {text[:64]}",
        ) from None


def parse_axes(text: str) -> dict[str, dict[int, str]]:
    """Return the axes of ``{"input_ids": {"0": "batch_size"}}``. Raises `OptionError`."""
    try:
        return {
            str(name): {int(axis): str(label) for axis, label in axes.items()}
            for name, axes in json.loads(text).items()
        }
    except (ValueError, AttributeError):
        raise OptionError("dynamic-axes", f"must be JSON such as {_AXES_EXAMPLE}") from None


@dataclass(frozen=True, slots=True)
class InputShape:
    """The shape of both inputs. ``dynamic``: the names of the axes of any length."""

    batch: int
    tokens: int
    dynamic: Mapping[int, str]

    def compared_sizes(self) -> list[tuple[int, int]]:
        """Return the shapes to compare at: the given one, and others along each dynamic axis."""
        sizes = [(self.batch, self.tokens)]
        if 0 in self.dynamic:
            sizes.append((self.batch + 1, self.tokens))
        if 1 in self.dynamic:
            sizes += [(self.batch, max(1, self.tokens // 3)), (self.batch, 1)]
        return sizes

    def traced_size(self) -> tuple[int, int]:
        """Return the shape to trace at: PyTorch's exporter takes an axis of 1 for a constant."""
        return (
            max(2, self.batch) if 0 in self.dynamic else self.batch,
            max(2, self.tokens) if 1 in self.dynamic else self.tokens,
        )


def read_input_shape(options: ExportOptions) -> InputShape:
    """Return the shape that ``options`` ask for. Raises `OptionError`."""
    sizes, axes = options.input_shape, options.dynamic_axes
    if len(sizes) != 2 or min(sizes) < 1:
        raise OptionError("input-shape", "must be two numbers from 1 on: batch and tokens")
    for name, labels in axes.items():
        _check_axes(name, labels)
    ids, mask = (axes.get(name, {}) for name in INPUTS)
    if ids != mask:
        raise OptionError(
            "dynamic-axes",
            "input_ids and attention_mask must have the same axes, because they have one shape",
        )
    for name in OUTPUTS:  # whose axes follow from the inputs'
        if fixed := axes.get(name, {}).keys() - ids.keys():
            raise OptionError(
                "dynamic-axes", f"{name}: axis {min(fixed)} is fixed, as it is in the inputs"
            )
    batch, tokens = sizes
    return InputShape(batch, tokens, dict(ids))


def _check_axes(name: str, labels: Mapping[int, str]) -> None:
    """Raise `OptionError` for a tensor or an axis that the graph does not have."""
    if name not in (*INPUTS, *OUTPUTS):
        raise OptionError(
            "dynamic-axes",
            f"`{name[:64]}` is no tensor of the graph; the inputs are {' and '.join(INPUTS)}",
        )
    if unknown := [axis for axis in labels if axis not in (0, 1)]:
        raise OptionError("dynamic-axes", f"{name}: axis {unknown[0]} must be 0 or 1")
