"""vLLM: language models on its own engine, in a Python environment that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import parameters as keys
from control_plane.engines.engine import Engine
from control_plane.engines.entry import set_parameter
from control_plane.setting_types import Name, Positive, Section, Share


class VllmSettings(Section):
    """`serving.vllm`: the vLLM engine. The first four keys are its arguments of the same names."""

    tensor_parallel_size: Positive = 1
    """The number of GPUs that one model is split over."""
    gpu_memory_utilization: Share = keys.VLLM_GPU_MEMORY_UTILIZATION
    """The fraction of the GPU's memory for weights and KV cache, above 0 and at most 1."""
    max_model_len: Positive = keys.VLLM_MAX_MODEL_LEN
    """The context length: the most tokens of a prompt and its answer together. Where it is not set,
    a model with a shorter context keeps its own."""
    max_num_seqs: Positive = keys.VLLM_MAX_NUM_SEQS
    """The number of sequences that are decoded at once."""
    max_queue_size: Positive = keys.VLLM_MAX_QUEUE_SIZE
    """The number of sequences that may wait. Further ones get a 503."""
    enable_streaming: bool = True
    """Allow answers to be streamed token by token. With false, a request to stream is refused."""
    lora_modules: dict[Name, Name] = Field(default_factory=dict)
    """The LoRA adapters: each name that requests may give as `lora_name`, and its folder."""
    engine_args: dict[Name, bool | int | float | str | list[Any] | dict[str, Any]] = Field(
        default_factory=dict
    )
    """Further engine arguments of vLLM by their names, such as `dtype: bfloat16`."""
    python_environment: Annotated[Path, Field(strict=False)] | None = None
    """The folder of a virtual environment that has vLLM and Triad, for the embedded server. `null`
    takes the one that the control plane runs in."""
    allow_pickle_weights: bool = False
    """Read weights that are pickles (`pytorch_model.bin`), which can run code."""


class VllmEngine(Engine[VllmSettings]):
    """The descriptor of vLLM, which takes engine arguments beside its settings."""

    def configure(self, config: ModelConfig, settings: VllmSettings) -> None:
        """Write what the user has set, and each of ``engine_args`` as a parameter of its name."""
        for name, value in sorted(settings.engine_args.items()):
            if name in settings.model_fields_set:
                raise ValueError(
                    f"{self.name}.engine_args.{name}: is given as {self.name}.{name} as well"
                )
            set_parameter(config, name, value)
        super().configure(config, settings)

    def python_environment(self, settings: VllmSettings) -> Path | None:
        """Return the setting of that name: vLLM asks for packages of its own versions."""
        return settings.python_environment


ENGINE = VllmEngine(
    name="vllm",
    title="vLLM",
    settings=VllmSettings,
    modules={"causal_lm": "backends.vllm.model"},
    instance_kind="KIND_MODEL",
    has_batch_window=False,
    not_parameters=frozenset({"engine_args", "python_environment"}),
)
