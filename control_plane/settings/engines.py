"""Settings of the engines and of the Triton servers that they run in."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from control_plane.settings.types import (
    AutoOrBool,
    Count,
    Device,
    Endpoint,
    HeaderName,
    Name,
    PortOrNone,
    Positive,
    Seconds,
    SecondsOrNone,
    Section,
    Share,
)


class PytorchSettings(Section):
    """`serving.pytorch`: Hugging Face models under the continuous batcher."""

    device: Device = "auto"
    """auto, cpu, cuda or cuda:N."""
    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Datatype; auto: the checkpoint's, or float32 on a CPU that is slow in it."""
    compile_model: bool = False
    """Run the model's feed-forward parts through `torch.compile`."""
    cuda_graphs: AutoOrBool = "auto"
    """Replay CUDA graphs for decode steps; auto: on a GPU, where the model can be captured."""
    optimization_level: Literal["auto", "O0", "O1", "O2", "O3"] = "auto"
    """O0: fp32; O1: autocast; O2: low-precision weights, fp32 norms; O3: low precision; auto: as
    the datatype has it."""
    quantization: Literal["none", "int8"] = "none"
    """int8: weights on a CPU, twice to four times as fast and less exact."""
    max_num_seqs: Positive = 16
    """Sequences decoded at once."""
    max_queue_size: Positive = 256
    """Sequences that may wait; one more is refused."""
    num_threads: Count = 0
    """CPU threads; 0: all cores."""
    spin_count: Count = 1000
    """How many times a thread without work looks for some before it sleeps (`GOMP_SPINCOUNT`)."""
    max_model_len: Positive | None = None
    """Longest prompt and answer together, in tokens; null: the model's own, or what fits."""
    memory_utilization: Share = 0.9
    """Share of the memory that weights and KV cache may take."""
    prefill_chunk_tokens: Count = 0
    """Prompt tokens that may be computed between two tokens of running answers; 0: the engine's
    choice."""
    allow_pickle_weights: bool = False
    """Read weights that are pickles (pytorch_model.bin): they can run code."""


class OnnxSettings(Section):
    """`serving.onnx`: ONNX Runtime. The last four are for models that are converted at start."""

    providers: list[Name] = Field(
        default=["CUDAExecutionProvider", "CPUExecutionProvider"], min_length=1
    )
    """Execution providers, the preferred one first."""
    optimization_level: Literal["all", "extended", "basic", "disabled"] = "all"
    """Graph optimisations."""
    intra_op_num_threads: Count = 4
    """CPU threads within one operator; 0: ONNX Runtime's own choice."""
    inter_op_num_threads: Count = 2
    """Operators run in parallel; 0: ONNX Runtime's own choice."""
    precision: Literal["fp32", "fp16", "int8", "int8-dynamic", "int4"] = "fp32"
    """Of the weights. int8-dynamic: of what is computed from them too, where a request's result
    depends on those that are computed with it."""
    max_model_len: Positive | None = None
    """Longest prompt and answer together, in tokens; null: 4096, or the model's own if less."""
    max_num_seqs: Positive = 8
    """Sequences decoded at once."""
    allow_pickle_weights: bool = False
    """Read weights that are pickles (pytorch_model.bin): they can run code."""


class VllmSettings(Section):
    """`serving.vllm`: vLLM. The first four keys are engine arguments of the same name."""

    tensor_parallel_size: Positive = 1
    """GPUs that one model is split over."""
    gpu_memory_utilization: Share = 0.9
    """Fraction of the GPU's memory for weights and KV cache."""
    max_model_len: Positive = 2048
    """Longest prompt and answer together, in tokens; as a default no more than the model's own."""
    max_num_seqs: Positive = 256
    """Sequences decoded at once."""
    enable_streaming: bool = True
    """Allow answers token by token."""
    lora_modules: dict[Name, Name] = Field(default_factory=dict)
    """LoRA adapters: a name that requests give as `lora_name`, and its folder."""
    engine_args: dict[Name, bool | int | float | str | list[Any] | dict[str, Any]] = Field(
        default_factory=dict
    )
    """Further engine arguments of vLLM by name, such as `dtype: bfloat16`."""
    python_environment: Annotated[Path, Field(strict=False)] | None = None
    """A virtual environment that has vLLM and Triad, for the embedded server; null: the one that
    the control plane runs in."""
    allow_pickle_weights: bool = False
    """Read weights that are pickles (pytorch_model.bin): they can run code."""


class TritonSettings(Section):
    """`serving.triton`: the Triton servers, or the embedded one where none is named."""

    endpoints: list[Endpoint] = Field(default_factory=list)
    """gRPC addresses, host:port or unix:/path; empty: start the embedded server."""
    model_repository: Annotated[Path, Field(strict=False)] | None = None
    """Folder of models; null: the one beside the package."""
    grpc_port: PortOrNone = 0
    """gRPC port of the embedded server; 0: none, but a socket that other users cannot reach."""
    http_port: PortOrNone = 0
    """HTTP port of the embedded server; 0: none."""
    metrics_port: PortOrNone = 0
    """Port of Triton's own Prometheus metrics, of the embedded server; 0: none."""
    model_control_header: HeaderName = "triton-model-control"
    """Header that opens the model-repository protocol where a server restricts it."""
    model_control_value: SecretStr | None = None
    """Secret sent in that header to the servers in `endpoints`."""
    model_control_file: Annotated[Path, Field(strict=False)] | None = None
    """A file with that secret, in place of `model_control_value`."""
    startup_timeout: Seconds = 300.0
    """Seconds for the embedded server to become live."""
    stop_timeout: SecondsOrNone = 9.0
    """Seconds from TERM to KILL."""
    health_check_interval: Seconds = 1.0
    """Seconds between two health checks."""
    health_check_timeout: Seconds = 5.0
    """Seconds before a health check counts as failed."""
