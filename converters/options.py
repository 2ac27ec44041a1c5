"""What an export is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["decoder", "encoder", "plain"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int8-dynamic", "int4"]
Exporter: TypeAlias = Literal["auto", "builder", "dynamo"]
Pooling: TypeAlias = Literal["auto", "mean", "cls", "none"]
OrtCompat: TypeAlias = Literal["1.19", "1.22", "latest"]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of the command line, which documents them; a function of `converters` reads those
    that its kind of export has, and raises `OptionError` for a value that it cannot serve."""

    model: str
    """A folder with Hugging Face weights, or a hub id."""
    output: Path
    """A model repository's folder, or a path that ends in ``.onnx``."""
    name: str | None = None
    """The Triton model's name; without one, made from ``model``."""
    kind: Kind = "decoder"
    precision: Precision = "fp32"
    allow_pickle_weights: bool = False
    """Whether weights may be read from a pickle, which can run code."""
    max_context: int | None = None
    """Tokens of one sequence; without it, what the model has."""
    max_num_seqs: int = 8
    """Sequences that run at once: the graph model's ``max_batch_size``."""
    exporter: Exporter = "auto"
    ort_compat: OrtCompat = "latest"
    """The oldest ONNX Runtime that has to load the graph."""
    text: Path | None = None
    """What perplexity and agreement are measured on; without it, the demo model's corpus."""
    pooling: Pooling = "auto"
    """``encoder`` only: how a text's tokens become one vector; auto: as the model's folder says, or
    the mean."""
    normalize: bool | None = None
    """``encoder`` only: whether vectors have length 1; None: as the model's folder says, or yes."""
    input_shape: tuple[int, ...] = (1, 512)
    """``plain`` only: the shape of the example inputs."""
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """``plain`` only: the names of axes of any length, by tensor and axis."""

    @property
    def bare(self) -> bool:
        """Whether a graph alone is asked for, not an entry of a model repository."""
        return self.output.suffix == ".onnx"

    @property
    def triton_name(self) -> str:
        """Of the model that answers requests."""
        return self.name or re.sub(r"[^\w.-]", "-", Path(self.model).name)

    @property
    def served_name(self) -> str:
        """What a request names: the hub's id, unless the user has chosen a name."""
        is_folder = Path(self.model).expanduser().exists()
        return self.triton_name if self.name or is_folder else self.model
