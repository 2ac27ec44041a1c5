"""`ModelManager`: a model as files, to be converted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

from control_plane.engines.converter import convert
from control_plane.errors import ModelNotReady
from control_plane.models.repository import DEFAULT_REPOSITORY
from control_plane.models.sources import find_weights
from control_plane.settings import ConfigManager

Axes = Mapping[str, Mapping[int, str]]


class ModelManager:
    """A finder of a model's weights, which it can convert. To serve a model, see `ModelServer`."""

    def __init__(self, config: ConfigManager) -> None:
        self._config = config
        self._weights: str | None = None

    def load_model(self, model: str | None = None) -> str:
        """Find the weights of ``model``, or of the settings' ``serving.model``: a name in the model
        repository, a folder, or a hub id, which is downloaded when it is converted.

        Returns their folder, or the hub id. Raises `ModelError`.
        """
        serving = self._config.serving
        repository = serving.triton.model_repository or DEFAULT_REPOSITORY
        self._weights = find_weights(serving.model if model is None else model, repository)
        return self._weights

    def convert_to_onnx(
        self,
        output_path: str | PathLike[str],
        input_shape: Sequence[int] = (1, 512),
        dynamic_axes: Axes | None = None,
        *,
        precision: Literal["fp32", "fp16", "int8", "int8-dynamic", "int4"] = "fp32",
    ) -> str:
        """Export the model's forward pass, ``input_ids`` and ``attention_mask`` to ``logits``, and
        verify the graph against the model.

        ``output_path``: a path that ends in ``.onnx``, or the folder of a model repository.
        ``input_shape``: batch and tokens, fixed but for the axes that ``dynamic_axes`` names, by
        input: ``{"input_ids": {0: "batch_size", 1: "sequence_length"}, "attention_mask": …}``.

        Returns the path. Raises `ModelNotReady` before `load_model`, and `ConversionFailed`. For
        other kinds of export, such as a decoder with its KV cache, there is ``triad convert``.
        """
        if self._weights is None:
            raise ModelNotReady("no model is loaded: call load_model first")
        axes = {name: dict(named) for name, named in (dynamic_axes or {}).items()}
        arguments = {
            "--kind": "plain",
            "--output": str(Path(output_path)),
            "--precision": precision,
            "--input-shape": ",".join(str(size) for size in input_shape),
            "--dynamic-axes": json.dumps(axes),
        }
        convert([self._weights, *(part for pair in arguments.items() for part in pair)])
        return str(output_path)
