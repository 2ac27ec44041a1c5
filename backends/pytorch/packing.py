"""Linear layers whose weights are laid out for the CPU once, at load.

PyTorch's own ``Linear`` passes oneDNN or MKL the plain matrix, which is laid out anew, or read
inefficiently, in every call. Prepacking is what ``torch.compile``'s freezing does, here without
compiling.
On AVX2 (2 cores, 768 x 3072, FP32) it is 1.6 times as fast for 1 row and for 16; on CPUs with
bfloat16 units it is 2.5 times as fast in BF16.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

EXPECTED_ROWS = 16
"""The number of rows that the layout is tuned for. More rows are padded to a multiple of it: oneDNN
compiles and keeps a kernel for every number of rows that it meets."""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative to the largest result


class PackedLinear(nn.Module):
    """A ``Linear`` for inference on a CPU, FP32 or BF16. It has no gradient."""

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weights of ``linear``. Raises RuntimeError if the CPU cannot use them."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, EXPECTED_ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, input: Tensor) -> Tensor:
        """Return ``[..., out_features]`` for ``input`` ``[..., in_features]``."""
        rows = input.numel() // self.in_features
        if rows <= EXPECTED_ROWS or not rows % EXPECTED_ROWS:
            return self._compute(input)
        padded = input.new_zeros(rows + -rows % EXPECTED_ROWS, self.in_features)
        padded[:rows] = input.reshape(rows, self.in_features)
        return self._compute(padded)[:rows].view(*input.shape[:-1], self.out_features)

    def _compute(self, input: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._weight, self._bias, "none", [], ""
        )
        return result


class Int8Linear(nn.Module):
    """A ``Linear`` with INT8 weights, one scale an output channel.

    Inputs and outputs are FP32; activations are quantised at each call.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Quantise the weights of ``linear``. Raises RuntimeError if the CPU cannot compute so."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-8).double() / 127
        with warnings.catch_warnings():
            # PyTorch has deprecated quantised tensors, but has no other INT8 kernel for AVX2 yet.
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
            )
        bias = None if linear.bias is None else linear.bias.detach().float()
        self._packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return FP32 ``[..., out_features]`` for ``input`` ``[..., in_features]``."""
        # Activations get 7 bits: the AVX2 kernel adds products in 16 bits, which 8 would overflow.
        result: Tensor = torch.ops.quantized.linear_dynamic(input.float(), self._packed, True)
        return result


def replace_linears(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> int:
    """Replace every plain Linear by ``make(linear)``, and return how many there were.

    The weights of a layer are freed as soon as it has been replaced.
    """
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, make(child))
                count += 1
    return count


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether this CPU packs weights of ``dtype``, and computes with them as Linear does."""
    if dtype not in _TOLERANCE:
        return False
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(96, 160)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    try:
        with torch.inference_mode():
            packed = PackedLinear(linear.to(dtype))
            for rows in (1, EXPECTED_ROWS):
                x = torch.randn(1, rows, 96, generator=generator).to(dtype)
                expected = F.linear(x, linear.weight, linear.bias).float()
                error = (packed(x).float() - expected).abs().max() / expected.abs().max()
                if not error < _TOLERANCE[dtype]:
                    logger.warning("packed weights are off by %.2g and not used", float(error))
                    return False
    except RuntimeError as error:
        logger.info("weights are not packed: %s", str(error).splitlines()[0])
        return False
    return True
