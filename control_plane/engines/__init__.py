"""The engines that models run on, each with a descriptor; everything else is derived from these."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import parameters as keys
from control_plane.engines import onnx, pytorch, vllm
from control_plane.engines.architecture import WeightsKind
from control_plane.engines.engine import Engine
from control_plane.engines.entry import ModelError, parameter

ENGINES: tuple[Engine[Any], ...] = (pytorch.ENGINE, onnx.ENGINE, vllm.ENGINE)
"""The first one is the default."""

ENGINE_NAMES = tuple(engine.name for engine in ENGINES)


def find_engine(name: str | None) -> Engine[Any]:
    """Return the engine of that name; for any other name, the default one."""
    return next((engine for engine in ENGINES if engine.name == name), ENGINES[0])


def engine_name_of(config: ModelConfig) -> str | None:
    """Return the name of the engine that a model's configuration is for; None: it does not say."""
    named = parameter(config, keys.BACKEND_TYPE)
    recognised = (engine.name for engine in ENGINES if engine.recognises(config))
    return named if named is not None else next(recognised, None)


def engine_for_weights(asked_for: str, kind: WeightsKind, served_name: str) -> Engine[Any]:
    """Return the engine that was asked for, if it takes weights of this kind.

    Otherwise return the first one that reads them as they are: vLLM, say, is for language models
    alone. Raises `ModelError`.
    """
    engine = find_engine(asked_for)
    if engine.takes(kind):
        return engine
    readers = [engine for engine in ENGINES if kind in engine.modules]
    if readers:
        return readers[0]
    others = [engine for engine in ENGINES if engine.takes(kind)]
    raise ModelError(
        f"model: {served_name} is a {kind}, which only {', '.join(e.title for e in others)} "
        f"serves: set serving.backend_type to {' or '.join(e.name for e in others)}"
    )


def variant_name(model: str, engine: str) -> str:
    """Return the name of a model's entry for one engine, where there are several entries."""
    return f"{model}_{engine}"
