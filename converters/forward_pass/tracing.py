"""PyTorch modules to ONNX graphs, by ``torch.onnx.export(dynamo=True)``.

Docs: https://docs.pytorch.org/docs/stable/onnx_export.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from converters.common.errors import ConversionError
from converters.common.quiet import quiet

OPSET = 20
"""Known to every ONNX Runtime from 1.17 on; the first with Gelu."""


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
    graph: Path,
) -> None:
    """Write ``graph``, and beside it ``<graph>.data`` where the weights exceed 2 GB.

    ``module`` takes the inputs in their order. ``dynamic_axes`` has, by input, the axes of any
    length and their names; they must be 2 or longer in ``inputs``, because PyTorch takes 0 and 1
    for constants. Raises `ConversionError`.
    """
    shapes = (tuple(dict(dynamic_axes.get(name, {})) for name in inputs),)
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ConversionError(f"PyTorch cannot export this model: {cause}") from error
    assert program is not None
    program.save(graph)
