"""From a model's folder to a runner: datatype, optimisation, memory, and a check of the result."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from backends.batching.engine import LoadedModel
from backends.batching.runner import Runner
from backends.contract import parameters as keys
from backends.pytorch.device import choose_device
from backends.pytorch.graphs import Capture, CudaGraphs
from backends.pytorch.memory import memory_budget, plan_context
from backends.pytorch.packing import Int8Linear, PackedLinear, can_pack, replace_linears
from backends.pytorch.runner import SequentialRunner, SlotRunner, Unsuitable, layer_shapes
from backends.pytorch.self_check import SelfCheck
from backends.pytorch.slots import SlotCache
from backends.pytorch.static_decode import SCRATCH
from backends.pytorch.weights import from_pretrained

logger = logging.getLogger(__name__)

Level: TypeAlias = Literal["auto", "O0", "O1", "O2", "O3"]
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}

# How far the batched logits may be from the model's own, relative to their spread.
_TOLERANCE = {"exact": 1e-3, "low": 0.15, "int8": 0.5}


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """``parameters`` of ``config.pbtxt``, as `backends.pytorch.model` documents them."""

    model: str
    device: str = "auto"
    torch_dtype: str = "auto"
    optimization_level: str = "auto"
    quantization: str = "none"
    compile_model: bool = False
    cuda_graphs: str = "auto"
    max_num_seqs: int = keys.DEFAULT_MAX_NUM_SEQS
    max_model_len: int | None = None
    memory_utilization: float = keys.DEFAULT_MEMORY_UTILIZATION
    allow_pickle_weights: bool = False

    @classmethod
    def of(cls, model: str, parameters: Mapping[str, str]) -> LoadOptions:
        """Raises ValueError, which names the parameter."""

        def one_of(name: str, values: Sequence[str]) -> str:
            value = parameters.get(name, values[0])
            if value not in values:
                raise ValueError(f"{name}: must be one of {', '.join(values)}, not {value}")
            return value

        length = parameters.get(keys.MAX_MODEL_LEN)
        options = cls(
            model,
            parameters.get(keys.DEVICE, "auto"),
            one_of(keys.TORCH_DTYPE, ("auto", *DTYPES)),
            one_of(keys.OPTIMIZATION_LEVEL, ("auto", "O0", "O1", "O2", "O3")),
            one_of(keys.QUANTIZATION, ("none", "int8")),
            one_of(keys.COMPILE_MODEL, ("false", "true", "False", "True")).lower() == "true",
            one_of(keys.CUDA_GRAPHS, ("auto", "true", "false")),
            int(parameters.get(keys.MAX_NUM_SEQS, keys.DEFAULT_MAX_NUM_SEQS)),
            None if length is None else int(length),
            float(parameters.get(keys.MEMORY_UTILIZATION, keys.DEFAULT_MEMORY_UTILIZATION)),
            one_of(keys.ALLOW_PICKLE_WEIGHTS, ("false", "true", "False", "True")).lower() == "true",
        )
        options.check()
        return options

    def check(self) -> None:
        low = self.torch_dtype in ("bfloat16", "float16")
        level, dtype = self.optimization_level, self.torch_dtype
        if (level == "O0" and low) or (level in ("O1", "O2", "O3") and dtype == "float32"):
            raise ValueError(f"optimization_level: {level} contradicts torch_dtype {dtype}")
        if self.quantization == "int8" and (low or level not in ("auto", "O0")):
            raise ValueError("quantization: int8 goes with float32 and optimization_level O0 alone")
        if self.quantization == "int8" and self.compile_model:
            raise ValueError("compile_model: does not go with quantization int8")
        if self.max_num_seqs < 1:
            raise ValueError(f"max_num_seqs: must be at least 1, not {self.max_num_seqs}")
        if not 0 < self.memory_utilization <= 1:
            raise ValueError("memory_utilization: must be above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(LoadedModel):
    source: str  # where the weights can be read again
    allow_pickle_weights: bool = False  # then


def load(options: LoadOptions) -> Loaded:
    """Raises ValueError for what cannot be, OSError where there are no weights."""
    device = choose_device(options.device)
    graphs = _wants_graphs(options, device)
    level, dtype = _level(options, device)
    weights = torch.float32 if level in ("O0", "O1") else dtype
    model = _read(options, weights, device)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": str(model.device),
        "dtype": str(weights).removeprefix("torch."),
        "optimization_level": level,
        "cuda_graphs": False,
    }
    vocabulary: int = model.get_output_embeddings().weight.shape[0]
    context = _context_length(model, options.max_model_len)
    check = SelfCheck.of(model, vocabulary, context)
    kind = _optimise(model, options, level, dtype, facts)
    runner: Runner
    try:
        scratch = SCRATCH if graphs else 0
        runner, context = _slot_runner(model, options, context, scratch)
        deviation = check.deviation(runner)
        if not deviation < _TOLERANCE[kind]:
            raise Unsuitable(f"its batched logits differ by {deviation:.2g} from its own")
    except Unsuitable as reason:
        _refuse(options, str(reason), "compile_model", "cuda_graphs")
        logger.warning(
            "%s is served one sequence at a time, without continuous batching: %s",
            *(type(model).__name__, reason),
        )
        model = _read(options, weights, device)  # as it is, without what was optimised
        runner = _sequential_runner(model, options, check, _TOLERANCE[kind])
        facts |= {"fallback": str(reason), "dtype": str(weights).removeprefix("torch.")}
    else:
        if graphs:
            capture = CudaGraphs(model.device)
            why_not = use_graphs(runner, capture, vocabulary, check, _TOLERANCE[kind])
            facts["cuda_graphs"] = why_not is None
            if why_not is not None:
                _refuse(options, why_not, "cuda_graphs")
                logger.warning("%s: no CUDA graphs: %s", type(model).__name__, why_not)
    return Loaded(
        runner=runner,
        context_length=context,
        vocab_size=vocabulary,
        eos_token_ids=_eos_token_ids(model),
        facts=facts,
        source=options.model,
        allow_pickle_weights=options.allow_pickle_weights,
    )


def use_graphs(
    runner: SlotRunner, capture: Capture, vocabulary: int, check: SelfCheck, tolerance: float
) -> str | None:
    """Steps that only decode are replays from here on. Returns why they are not, where they cannot
    be or are not what the model computes."""
    try:
        runner.replay_decodes(capture, vocabulary)
        deviation = check.deviation(runner)
        if deviation < tolerance:
            return None
        reason = f"its replayed logits differ by {deviation:.2g} from its own"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    runner.stop_replays()
    return reason


def _wants_graphs(options: LoadOptions, device: torch.device) -> bool:
    if options.cuda_graphs == "true" and device.type != "cuda":
        raise ValueError(
            f"cuda_graphs: true is for a GPU, and device is {device.type}; must be auto or false"
        )
    return options.cuda_graphs != "false" and device.type == "cuda"


def _refuse(options: LoadOptions, reason: str, *names: str) -> None:
    """What was asked for by name is not left out with a warning. Raises ValueError."""
    for name in names:
        if getattr(options, name) in (True, "true"):
            raise ValueError(f"{name}: {reason}")


def _read(options: LoadOptions, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    model: PreTrainedModel = from_pretrained(
        AutoModelForCausalLM,
        options.model,
        allow_pickle=options.allow_pickle_weights,
        dtype=dtype,
    )
    return model.to(device).eval()


def _level(options: LoadOptions, device: torch.device) -> tuple[str, torch.dtype]:
    """The optimisation level, and the low-precision datatype that it uses."""
    level, dtype = options.optimization_level, DTYPES.get(options.torch_dtype)
    if dtype is None:
        own = AutoConfig.from_pretrained(options.model).get_text_config().dtype
        dtype = own if isinstance(own, torch.dtype) else torch.float32
        if level == "auto" and device.type == "cpu" and not can_pack(dtype):
            dtype = torch.float32  # without units for it, low precision is slower
        if options.quantization == "int8":
            dtype = torch.float32
    if level == "auto":
        level = "O0" if dtype == torch.float32 else "O3"
    if level != "O0" and dtype == torch.float32:
        dtype = torch.bfloat16
    return level, dtype


def _optimise(
    model: PreTrainedModel,
    options: LoadOptions,
    level: str,
    dtype: torch.dtype,
    facts: dict[str, Any],
) -> str:
    """Apply what was asked for, in place. Returns the kind of precision that is left."""
    on_cpu = model.device.type == "cpu"
    if level == "O1":
        model.forward = torch.autocast(model.device.type, dtype)(model.forward)
    elif level == "O2":
        _norms_in_float32(model, dtype)
    if options.quantization == "int8":
        if not on_cpu:
            raise ValueError("quantization: int8 is for the CPU")
        replace_linears(model, Int8Linear)
        facts["dtype"] = "int8"
        return "int8"
    if options.compile_model:
        _compile(model)
    elif on_cpu and level != "O1" and can_pack(torch.float32 if level == "O0" else dtype):
        replace_linears(model, PackedLinear)
    return "exact" if level == "O0" else "low"


def _norms_in_float32(model: nn.Module, dtype: torch.dtype) -> None:
    """Normalisation computes in FP32, between layers that compute in ``dtype``."""
    for module in model.modules():
        if "Norm" in type(module).__name__ and any(True for _ in module.parameters(recurse=False)):
            module.float()
            module.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
            module.register_forward_hook(lambda _, args, output: output.to(dtype))


def _compile(model: nn.Module) -> None:
    """The feed-forward parts, which are most of a model and have one shape in all layers."""
    parts = [
        m for name, m in model.named_modules() if name.split(".")[-1] in ("mlp", "feed_forward")
    ]
    if not parts:
        raise ValueError("compile_model: this model has no part named mlp or feed_forward")
    for part in parts:
        part.compile(dynamic=True)


def _slot_runner(
    model: PreTrainedModel, options: LoadOptions, context: int, scratch: int
) -> tuple[SlotRunner, int]:
    try:
        shapes = layer_shapes(model)
    except Unsuitable:
        raise
    except Exception as error:
        raise Unsuitable(f"{type(error).__name__}: {error}") from error
    context = plan_context(
        shapes,
        options.max_num_seqs,
        context,
        budget=memory_budget(model.device, options.memory_utilization),
        fixed=options.max_model_len is not None,
        scratch=scratch,
    )
    cache = SlotCache(shapes, options.max_num_seqs, context, model.device, scratch=scratch)
    return SlotRunner(model, cache, options.max_num_seqs), context


def _sequential_runner(
    model: PreTrainedModel, options: LoadOptions, check: SelfCheck, tolerance: float
) -> SequentialRunner:
    with suppress(Unsuitable):
        runner = SequentialRunner(model, options.max_num_seqs)
        if check.deviation(runner) < tolerance:
            return runner
    return SequentialRunner(model, options.max_num_seqs, cached=False)


def _eos_token_ids(model: PreTrainedModel) -> frozenset[int]:
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = model.config.eos_token_id
    return frozenset([ids] if isinstance(ids, int) else ids or [])


def _context_length(model: PreTrainedModel, asked: int | None) -> int:
    own: int = model.config.get_text_config().max_position_embeddings
    if asked is not None and not 0 < asked <= own:
        raise ValueError(f"max_model_len: must be from 1 to {own}, the model's own context")
    return asked or own
