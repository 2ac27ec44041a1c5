"""The backend's model class, which Triton loads: one instance of a model on ONNX Runtime."""

from __future__ import annotations

import json
import locale
import logging
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from backends.contract import parameters as keys
from backends.onnxruntime_shim.auto_complete import auto_complete
from backends.onnxruntime_shim.calls import SequenceCall
from backends.onnxruntime_shim.config import ConfigError, ModelConfig
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.implicit_state import StatefulModel
from backends.onnxruntime_shim.in_place_decoder import InPlaceDecoder
from backends.onnxruntime_shim.plain import PlainModel
from backends.onnxruntime_shim.scheduler import Scheduler, StepRunner


class TritonPythonModel:
    """A model instance. Models without a sequence batcher respond at once, the others later.

    https://github.com/triton-inference-server/python_backend#usage
    """

    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401
        """Return the configuration with what the graph says. Raises `ConfigError`."""
        _prepare_process()
        auto_complete(ModelConfig(config.as_dict(), Path(pb_utils.get_model_dir())))
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph. Raises `ConfigError`, or onnxruntime's own errors."""
        _prepare_process()
        folder = Path(args["model_repository"]) / args["model_version"]
        config = ModelConfig(json.loads(args["model_config"]), folder)
        graph = OnnxGraph(
            config, args["model_instance_kind"], int(args["model_instance_device_id"])
        )
        self._plain: PlainModel | None = None
        self._scheduler: Scheduler | None = None
        if config.sequence_batching is None:
            self._plain = PlainModel(graph)
        else:
            self._scheduler = Scheduler(_runner(graph), config.name)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Return a response for each request, or None where they are sent later."""
        if self._plain is not None:
            return self._plain.execute(requests)
        assert self._scheduler is not None
        # The responses are sent later, through each request's response sender.
        self._scheduler.submit(map(SequenceCall, requests))
        return None

    def finalize(self) -> None:
        """End the scheduler. Requests that are waiting fail with `ShuttingDown`."""
        if self._scheduler is not None:
            self._scheduler.close()


def _runner(graph: OnnxGraph) -> StepRunner:
    kv_cache = graph.config.parameters.get(keys.KV_CACHE)
    if kv_cache not in (None, keys.IN_PLACE):
        raise ConfigError(
            f"parameter {keys.KV_CACHE} must be {keys.IN_PLACE}, not '{kv_cache[:100]}'"
        )
    return InPlaceDecoder(graph) if kv_cache else StatefulModel(graph)


def _prepare_process() -> None:
    # The embedded interpreter starts in the C locale, where text files are read as ASCII.
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
