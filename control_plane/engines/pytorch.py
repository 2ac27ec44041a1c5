"""PyTorch: weights of Hugging Face under the continuous batcher of `backends.batching`."""

from __future__ import annotations

from typing import Literal

from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import parameters as keys
from control_plane.engines.engine import Engine
from control_plane.setting_types import AutoOrBool, Count, Device, Positive, Section, Share

_PRECISION = (keys.TORCH_DTYPE, keys.OPTIMIZATION_LEVEL, keys.QUANTIZATION)
"""They say one thing together: whoever sets one of them means all."""


class PytorchSettings(Section):
    """`serving.pytorch`: the PyTorch engine, for Hugging Face models."""

    device: Device = "auto"
    """The device that computes: `cpu`, `cuda`, or `cuda:N` for the GPU of that number. `auto` takes
    a GPU where there is one."""
    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The datatype of weights and activations. `auto` takes the checkpoint's own, or float32 on a
    CPU that is slow in it."""
    compile_model: bool = False
    """Run the model's feed-forward parts through `torch.compile`."""
    cuda_graphs: AutoOrBool = "auto"
    """Replay CUDA graphs for decode steps. `auto` does so on a GPU, where the model can be
    captured."""
    optimization_level: Literal["auto", "O0", "O1", "O2", "O3"] = "auto"
    """How much precision is given up for speed. `O0`: float32; `O1`: autocast; `O2`: low-precision
    weights and float32 norms; `O3`: low precision throughout. `auto` takes O0 or O3, as
    `torch_dtype` has it."""
    quantization: Literal["none", "int8"] = "none"
    """Quantise the weights. `int8` is for a CPU: two to four times as fast, and less exact."""
    max_num_seqs: Positive = keys.DEFAULT_MAX_NUM_SEQS
    """The number of sequences that are decoded at once."""
    max_queue_size: Positive = keys.DEFAULT_MAX_QUEUE_SIZE
    """The number of sequences that may wait. One more is refused with a 503."""
    num_threads: Count = keys.DEFAULT_NUM_THREADS
    """The number of CPU threads. 0 takes all cores."""
    spin_count: Count = keys.DEFAULT_SPIN_COUNT
    """How many times a thread without work looks for some before it sleeps (`GOMP_SPINCOUNT`)."""
    max_model_len: Positive | None = None
    """The context length: the most tokens of a prompt and its answer together. `null` takes the
    model's own, or what fits the memory."""
    memory_utilization: Share = keys.DEFAULT_MEMORY_UTILIZATION
    """The fraction of the device's memory that weights and KV cache may take, above 0 and at most
    1."""
    prefill_chunk_tokens: Count = keys.DEFAULT_PREFILL_CHUNK_TOKENS
    """The number of prompt tokens that may be computed between two tokens of running answers. 0
    leaves it to the engine: 128 on a CPU, 1024 on a GPU."""
    allow_pickle_weights: bool = False
    """Read weights that are pickles (`pytorch_model.bin`), which can run code."""


class PytorchEngine(Engine[PytorchSettings]):
    """The descriptor of PyTorch, of which three settings for precision go together."""

    def configure(self, config: ModelConfig, settings: PytorchSettings) -> None:
        """Write what the user has set; one setting for precision replaces all that the file has."""
        if settings.model_fields_set.intersection(_PRECISION):
            for key in _PRECISION:
                config.parameters.pop(key, None)
        super().configure(config, settings)


ENGINE = PytorchEngine(
    name="pytorch",
    title="PyTorch",
    settings=PytorchSettings,
    modules={
        "causal_lm": "backends.pytorch.model",
        "encoder": "backends.pytorch.encoder_model",
    },
)
