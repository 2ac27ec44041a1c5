"""The options of an export."""

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
    """The options of the command line. A kind of export reads those that concern it, and raises
    `OptionError` for a value that it cannot use."""

    model: str
    """A folder with Hugging Face weights, or a hub id."""
    output: Path
    """The folder of a model repository, or a path that ends in ``.onnx``."""
    name: str | None = None
    """The Triton model's name; None: derived from ``model``."""
    kind: Kind = "decoder"
    precision: Precision = "fp32"
    """The precision of the weights."""
    allow_pickle_weights: bool = False
    """Whether weights may be read from a pickle, which can run code."""
    max_context: int | None = None
    """The tokens of one sequence; None: as many as the model takes, with a default maximum."""
    max_num_seqs: int = 8
    """The sequences that run at once: the graph model's ``max_batch_size``."""
    exporter: Exporter = "auto"
    ort_compat: OrtCompat = "latest"
    """The oldest ONNX Runtime that has to load the graph."""
    text: Path | None = None
    """The text that quality is measured on; None: the corpus of the demo model."""
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
    def graph_only(self) -> bool:
        """Return whether a single graph is asked for instead of an entry of a model repository."""
        return self.output.suffix == ".onnx"

    @property
    def triton_name(self) -> str:
        """Return the name of the Triton model that answers requests."""
        return self.name or re.sub(r"[^\w.-]", "-", Path(self.model).name)

    @property
    def served_name(self) -> str:
        """Return the name that a request gives: the hub id, unless the user has chosen a name."""
        is_folder = Path(self.model).expanduser().exists()
        return self.triton_name if self.name or is_folder else self.model
