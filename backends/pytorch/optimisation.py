"""The optimisation levels: datatypes, packed and quantised weights, and compilation."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from backends.pytorch.packing import Int8Linear, PackedLinear, can_pack, replace_linears

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


def choose_level(
    level: str, dtype: torch.dtype | None, own: object, *, on_cpu: bool, int8: bool
) -> tuple[str, torch.dtype]:
    """Return the optimisation level, and the low-precision datatype that it uses.

    ``level``: of the options; ``auto`` is O0 for FP32, and O3 for other datatypes. ``dtype``: of
    the options, None for ``auto``. ``own``: the checkpoint's datatype. ``int8``: whether the
    weights are quantised.
    """
    if dtype is None:
        dtype = own if isinstance(own, torch.dtype) else torch.float32
        if level == "auto" and on_cpu and not can_pack(dtype):
            dtype = torch.float32  # without units for it, low precision is slower
        if int8:
            dtype = torch.float32
    if level == "auto":
        level = "O0" if dtype == torch.float32 else "O3"
    if level != "O0" and dtype == torch.float32:
        dtype = torch.bfloat16
    return level, dtype


def optimise(
    model: PreTrainedModel, level: str, dtype: torch.dtype, *, int8: bool, compiled: bool
) -> str:
    """Apply an optimisation level in place, and return the precision that results.

    It is ``exact`` (FP32), ``low`` or ``int8``. ``dtype``: the low-precision datatype of the level.

    Raises ValueError if the model or the device is not suited.
    """
    on_cpu = model.device.type == "cpu"
    if level == "O1":
        model.forward = torch.autocast(model.device.type, dtype)(model.forward)
    elif level == "O2":
        _compute_norms_in_float32(model, dtype)
    if int8:
        if not on_cpu:
            raise ValueError("quantization: int8 is for the CPU")
        replace_linears(model, Int8Linear)
        return "int8"
    if compiled:
        _compile(model)
    elif on_cpu and level != "O1" and can_pack(torch.float32 if level == "O0" else dtype):
        replace_linears(model, PackedLinear)
    return "exact" if level == "O0" else "low"


def _compute_norms_in_float32(model: nn.Module, dtype: torch.dtype) -> None:
    """Make normalisation layers compute in FP32, between layers that compute in ``dtype``."""
    for module in model.modules():
        if "Norm" in type(module).__name__ and any(True for _ in module.parameters(recurse=False)):
            module.float()
            module.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
            module.register_forward_hook(lambda _, args, output: output.to(dtype))


def _compile(model: nn.Module) -> None:
    """Compile the feed-forward parts, which are most of a model and alike in all layers.

    Raises ValueError if there are none.
    """
    parts = [
        m for name, m in model.named_modules() if name.split(".")[-1] in ("mlp", "feed_forward")
    ]
    if not parts:
        raise ValueError("compile_model: this model has no part named mlp or feed_forward")
    for part in parts:
        part.compile(dynamic=True)
