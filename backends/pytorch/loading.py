"""The way from a model's folder to a runner that has been checked.

The weights are read and optimised, and the KV cache is allocated. The runner's logits are then
compared with the model's own; a model that does not suit a slot cache is served one sequence at a
time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from backends.batching.engine import LoadedModel
from backends.batching.runner import Runner
from backends.contract import parameters as keys
from backends.pytorch.device import choose_device
from backends.pytorch.graphs import Capture, CudaGraphs
from backends.pytorch.memory import memory_budget, plan_context
from backends.pytorch.optimisation import DTYPES, choose_level, optimise
from backends.pytorch.runner import SequentialRunner, SlotRunner, Unsuitable, layer_shapes
from backends.pytorch.self_check import SelfCheck
from backends.pytorch.slots import SlotCache
from backends.pytorch.static_decode import SCRATCH
from backends.pytorch.weights import from_pretrained

logger = logging.getLogger(__name__)

_TOLERANCE = {"exact": 1e-3, "low": 0.15, "int8": 0.5}
"""The largest error of the batched logits, relative to the spread of the model's own, by the
precision that `optimise` returns."""


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
        """Return the options that ``parameters`` have.

        Raises ValueError, which names the parameter.
        """

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
        """Raise ValueError for options that contradict each other or are out of range."""
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
class LoadedCausalLM(LoadedModel):
    """A language model of transformers that is ready to compute."""

    source: str  # a folder or hub id, from which the weights can be read again
    allow_pickle_weights: bool = False  # when they are read again


def load(options: LoadOptions) -> LoadedCausalLM:
    """Load a model.

    Raises ValueError if the options do not fit the model or the device, OSError if there are no
    weights.
    """
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
    int8 = options.quantization == "int8"
    precision = optimise(model, level, dtype, int8=int8, compiled=options.compile_model)
    if int8:
        facts["dtype"] = "int8"
    runner: Runner
    try:
        runner, context = _slot_runner(model, options, context, SCRATCH if graphs else 0)
        deviation = check.deviation(runner)
        if not deviation < _TOLERANCE[precision]:
            raise Unsuitable(f"its batched logits differ by {deviation:.2g} from its own")
    except Unsuitable as reason:
        _refuse(options, str(reason), "compile_model", "cuda_graphs")
        logger.warning(
            "%s is served one sequence at a time, without continuous batching: %s",
            type(model).__name__,
            reason,
        )
        model = _read(options, weights, device)  # again, because `optimise` has changed it
        runner = _sequential_runner(model, options, check, _TOLERANCE[precision])
        facts |= {"fallback": str(reason), "dtype": str(weights).removeprefix("torch.")}
    else:
        if graphs:
            facts["cuda_graphs"] = _capture_graphs(
                model, options, runner, vocabulary, check, _TOLERANCE[precision]
            )
    return LoadedCausalLM(
        runner=runner,
        context_length=context,
        vocab_size=vocabulary,
        eos_token_ids=_eos_token_ids(model),
        facts=facts,
        source=options.model,
        allow_pickle_weights=options.allow_pickle_weights,
    )


def _capture_graphs(
    model: PreTrainedModel,
    options: LoadOptions,
    runner: SlotRunner,
    vocabulary: int,
    check: SelfCheck,
    tolerance: float,
) -> bool:
    """Capture the decode steps as CUDA graphs. Return False if the model is not suited.

    Raises ValueError if it is not suited and the options require graphs.
    """
    reason = use_graphs(runner, CudaGraphs(model.device), vocabulary, check, tolerance)
    if reason is not None:
        _refuse(options, reason, "cuda_graphs")
        logger.warning("%s: no CUDA graphs: %s", type(model).__name__, reason)
    return reason is None


def use_graphs(
    runner: SlotRunner, capture: Capture, vocabulary: int, check: SelfCheck, tolerance: float
) -> str | None:
    """Capture the decode steps of ``runner``, to be replayed from now on, and check the replays.

    Return None, or the reason why nothing is replayed: a capture failed, or the replayed logits
    differ from the model's own by ``tolerance`` or more.
    """
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
    """Return whether CUDA graphs are to be captured. Raises ValueError if the device has none."""
    if options.cuda_graphs == "true" and device.type != "cuda":
        raise ValueError(
            f"cuda_graphs: true is for a GPU, and device is {device.type}; must be auto or false"
        )
    return options.cuda_graphs != "false" and device.type == "cuda"


def _refuse(options: LoadOptions, reason: str, *names: str) -> None:
    """Raise ValueError with ``reason`` if one of the options ``names`` is on explicitly.

    What the user requested explicitly is not left out with a mere warning.
    """
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
    """Return the optimisation level, and the low-precision datatype that it uses."""
    dtype, own = DTYPES.get(options.torch_dtype), None
    if dtype is None:
        own = AutoConfig.from_pretrained(options.model).get_text_config().dtype
    return choose_level(
        options.optimization_level,
        dtype,
        own,
        on_cpu=device.type == "cpu",
        int8=options.quantization == "int8",
    )


def _slot_runner(
    model: PreTrainedModel, options: LoadOptions, context: int, scratch: int
) -> tuple[SlotRunner, int]:
    """Return a runner over a slot cache, and its context length.

    Raises `Unsuitable` if the model cannot use such a cache, ValueError if there is not enough
    memory.
    """
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
    """Return a runner for one sequence at a time, without a cache if the check fails with one."""
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


def _context_length(model: PreTrainedModel, requested: int | None) -> int:
    """Return the context length in tokens. Raises ValueError if the model has not so many."""
    own: int = model.config.get_text_config().max_position_embeddings
    if requested is not None and not 0 < requested <= own:
        raise ValueError(f"max_model_len: must be from 1 to {own}, the model's own context")
    return requested or own
