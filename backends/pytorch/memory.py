"""The size of the KV cache, decided when the model is loaded rather than found out under load."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from backends.memory import GIB, available_memory
from backends.pytorch.slots import LayerShape

logger = logging.getLogger(__name__)

MIN_CONTEXT_LENGTH = 256  # tokens; a model with less is of no use


def plan_context(
    shapes: Sequence[LayerShape],
    slots: int,
    context: int,
    *,
    budget: int,
    fixed: bool,
    scratch: int = 0,
) -> int:
    """Return the context length, in tokens, of each of ``slots`` sequences.

    ``budget``: bytes. ``fixed``: return ``context`` or raise; else the longest context up to it
    that fits is returned. ``scratch``: positions of each slot beside the context.

    Raises ValueError, which names what would fit.
    """
    token = sum(shape.bytes_per_token for shape in shapes)
    budget = max(0, budget - slots * scratch * token)
    if slots * context * token <= budget:
        return context
    fitting = budget // (slots * token)
    if not fixed and fitting >= MIN_CONTEXT_LENGTH:
        logger.warning(
            "max_model_len is %d, not the model's %d: a KV cache for %d sequences of that length "
            "needs %.1f GiB, and %.1f GiB may be used",
            fitting,
            context,
            slots,
            slots * context * token / GIB,
            budget / GIB,
        )
        return fitting
    wanted = context if fixed else MIN_CONTEXT_LENGTH
    fewer = budget // (wanted * token)
    options = [f"max_num_seqs {fewer}"] if fewer else []
    options += [f"max_model_len {fitting}"] if fitting else []
    raise ValueError(
        f"max_num_seqs: {slots} sequences of {wanted} tokens need "
        f"{slots * wanted * token / GIB:.2f} GiB of KV cache, and {budget / GIB:.2f} GiB may be "
        f"used; what would fit: {' or '.join(options) or 'nothing, not even one sequence'}"
    )


def memory_budget(device: torch.device, utilization: float) -> int:
    """Return the bytes that a KV cache may take.

    On a GPU it is ``utilization`` of the total memory, less what is in use; on a CPU it is
    ``utilization`` of the memory that is available to this process.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(utilization * total) - (total - free))
    return int(utilization * available_memory())
