"""Linear layers whose weights are laid out for the CPU once, at load.

PyTorch's own ``Linear`` hands oneDNN or MKL the plain matrix, which is laid out anew, or read
badly, in every call. Prepacking is what ``torch.compile``'s freezing does, here without compiling.
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
"""What the layout is tuned for. More rows are padded to a multiple of it: oneDNN compiles and keeps
a kernel for every number of rows that it meets."""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest result


class PackedLinear(nn.Module):
    """``Linear`` for inference on a CPU, FP32 or BF16; it has no gradient.

    Raises RuntimeError where the CPU cannot do it.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().contiguous()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, EXPECTED_ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, input: Tensor) -> Tensor:
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
    """``Linear`` with INT8 weights, a scale an output channel, and activations quantised as they
    come. FP32 in and out. Raises RuntimeError where the CPU cannot do it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-8).double() / 127
        with warnings.catch_warnings():
            # PyTorch means to replace quantised tensors, and has no other INT8 kernel for AVX2 yet.
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
            )
        bias = None if linear.bias is None else linear.bias.detach().float()
        self._packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def forward(self, input: Tensor) -> Tensor:
        # 7 bits an activation: the AVX2 kernel adds products in 16 bits, which 8 would overflow.
        result: Tensor = torch.ops.quantized.linear_dynamic(input.float(), self._packed, True)
        return result


def replace_linears(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> int:
    """Put ``make(linear)`` in place of every plain Linear; how many there were.

    The weights of those replaced are freed as it goes.
    """
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, make(child))
                count += 1
    return count


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this CPU packs weights of ``dtype``, and computes with them what Linear computes."""
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
