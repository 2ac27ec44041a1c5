"""The translation of a model's parameters to vLLM's engine arguments.

vLLM's own command-line parser reads the values: everything that ``vllm serve`` takes is taken here,
and what it refuses is refused with its error messages.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from backends.contract import parameters as keys
from backends.memory import GIB, available_memory
from backends.serving.model import ModelOptions
from backends.vllm.pickles import refuse_pickles

logger = logging.getLogger(__name__)

DEFAULTS = {
    keys.MAX_NUM_SEQS: str(keys.VLLM_MAX_NUM_SEQS),
    "gpu_memory_utilization": str(keys.VLLM_GPU_MEMORY_UTILIZATION),
    "scheduling_policy": "priority",
    "structured_outputs_config": '{"backend": "guidance"}',
}
CPU_KV_CACHE_BYTES, CPU_KV_CACHE_SHARE = 4 * GIB, 0.4

_NOT_ARGUMENTS = frozenset(
    {
        keys.MODEL,
        keys.SERVED_MODEL_NAME,
        keys.ENABLE_STREAMING,
        keys.LORA_MODULES,
        keys.NUM_THREADS,
        keys.SPIN_COUNT,
        keys.STREAM_INTERVAL_MS,
        keys.ALLOW_CONTROL_TOKENS,
        keys.ALLOW_PICKLE_WEIGHTS,
        keys.MAX_QUEUE_SIZE,
        # These belong to the control plane and to the Python backend.
        keys.BACKEND_TYPE,
        keys.CONTRACT,
        keys.RESTARTED_AT,
        keys.EXECUTION_ENV_PATH,
        keys.FORCE_CPU_ONLY_INPUT_TENSORS,
    }
)


@dataclass(frozen=True, slots=True)
class EngineArguments:
    """The arguments of a `backends.vllm.engine.VllmEngine`."""

    engine: Any  # vLLM's `AsyncEngineArgs`
    adapters: Mapping[str, str]  # folders of LoRA adapters by name
    max_queue_size: int

    @classmethod
    def of(cls, options: ModelOptions) -> EngineArguments:
        """Return the arguments that the parameters of a model have.

        Sets environment variables that vLLM reads, so call it before vLLM is imported. Raises
        ValueError for an argument that vLLM does not take.
        """
        parameters = options.parameters
        _set_up_environment(int(parameters.get(keys.NUM_THREADS, keys.DEFAULT_NUM_THREADS)))
        allow_pickle = parameters.get(keys.ALLOW_PICKLE_WEIGHTS, "false").lower() == "true"
        adapters = adapter_folders(options)
        given = {k: v for k, v in parameters.items() if k not in _NOT_ARGUMENTS}
        if adapters:
            given.setdefault("enable_lora", "true")
        if not allow_pickle:
            refuse_pickles(keys.MODEL, options.model)
            for adapter in adapters.values():
                refuse_pickles(keys.LORA_MODULES, adapter)
            if not Path(options.model).is_dir():
                # A hub's model is not downloaded yet. The format of a folder is left to vLLM.
                given.setdefault("load_format", "safetensors")
        given = DEFAULTS | given | {keys.MODEL: options.model}
        engine = parse({**given, keys.SERVED_MODEL_NAME: options.served_name})
        if keys.MAX_MODEL_LEN not in given:
            engine.max_model_len = min(keys.VLLM_MAX_MODEL_LEN, _own_context(engine))
        if _on_cpu():
            _fit_cpu(engine, len(adapters))
        waiting = parameters.get(keys.MAX_QUEUE_SIZE, keys.VLLM_MAX_QUEUE_SIZE)
        return cls(engine, adapters, int(waiting))


def _fit_cpu(engine: Any, adapters: int) -> None:  # noqa: ANN401
    """Set what vLLM needs on a CPU: the size of the KV cache, and a spare place for adapters."""
    if engine.kv_cache_memory_bytes is None:
        share = int(available_memory() * CPU_KV_CACHE_SHARE)
        engine.kv_cache_memory_bytes = min(CPU_KV_CACHE_BYTES, share)
    if adapters:
        # Beside requests that have an adapter, vLLM's CPU kernels (`lora/ops/torch_ops`) give those
        # that have none the adapter in the last place. With one place more, the last one is empty.
        engine.max_loras = max(engine.max_loras, adapters + 1)


def _set_up_environment(num_threads: int) -> None:
    """Set environment variables for this process, before vLLM is imported, and the engine's."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # no telemetry
    if num_threads:
        # Otherwise vLLM binds each engine to cores, the same ones for two models on one machine.
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def parse(parameters: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Return ``AsyncEngineArgs`` from arguments by name. Raises ValueError."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise ValueError(f"vLLM's engine arguments: {message}")

    parser = AsyncEngineArgs.add_cli_args(Parser(allow_abbrev=False))
    words = [word for name, value in parameters.items() for word in _words(name, value)]
    return AsyncEngineArgs.from_cli_args(parser.parse_args(words))


def _words(name: str, value: str) -> list[str]:
    """Return an argument as it is written on a command line."""
    option = name.replace("_", "-")
    if value in ("true", "false"):
        return [f"--{option}" if value == "true" else f"--no-{option}"]
    return [f"--{option}", value]


def adapter_folders(options: ModelOptions) -> dict[str, str]:
    """Return the folders of adapters, or their hub ids, by name. Raises ValueError."""
    try:
        adapters = json.loads(options.parameters.get(keys.LORA_MODULES, "{}"))
    except ValueError as error:
        raise ValueError(f"lora_modules: is not valid JSON: {error}") from None
    if not isinstance(adapters, dict) or not all(isinstance(p, str) for p in adapters.values()):
        raise ValueError("lora_modules: must be a JSON object of names to folders")
    beside = {name: options.version_folder / path for name, path in adapters.items()}
    return {n: str(p) if p.is_dir() else adapters[n] for n, p in beside.items()}


def _own_context(engine: Any) -> int:  # noqa: ANN401
    length: int = engine.create_model_config().max_model_len
    return length


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    on_cpu: bool = current_platform.is_cpu()
    return on_cpu
