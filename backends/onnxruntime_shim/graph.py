"""An ONNX Runtime session whose graph has been checked against the model's configuration."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort

from backends.onnxruntime_shim import options
from backends.onnxruntime_shim.config import ConfigError, ModelConfig, StateSpec
from backends.onnxruntime_shim.tensors import TensorInfo, tensor_infos


class OnnxGraph:
    """A graph that is ready to run.

    ``inputs`` and ``outputs``: all tensors of the graph, by name. ``states``: the implicit states.
    ``optional``: the inputs that have a default value in the graph. ``required_inputs``: the inputs
    that each request must have.
    """

    def __init__(self, config: ModelConfig, kind: str, device: int) -> None:
        """Load the graph for a model instance of the ``kind`` CPU or GPU, on the GPU ``device``.

        Raises `ConfigError`, or onnxruntime's own errors.
        """
        if config.values.get("batch_input") or config.values.get("batch_output"):
            raise ConfigError("batch_input and batch_output need the native onnxruntime backend")
        self.config = config
        self.session = ort.InferenceSession(
            str(config.model_file),
            options.session_options(config),
            providers=options.providers(config, kind, device),
        )
        self.run_options = options.run_options(config)
        optional = tensor_infos(self.session.get_overridable_initializers())
        self.optional = set(optional)
        self.inputs = tensor_infos(self.session.get_inputs()) | optional
        self.outputs = tensor_infos(self.session.get_outputs())
        self.states = config.states()
        self.state_inputs = frozenset(state.input_name for state in self.states)
        self.required_inputs = frozenset(self.inputs) - self.optional - self.state_inputs
        self._validate()

    def _validate(self) -> None:
        config, graph = self.config, f"model '{self.config.name}'"
        for state in self.states:
            self._validate_state(state)
        declared = {io["name"] for io in config.inputs} | config.control_inputs
        for name in sorted(self.required_inputs - declared):
            raise ConfigError(f"{graph}: the graph's input '{name}' is not in the configuration")
        for name in sorted(config.control_inputs - set(self.inputs)):
            raise ConfigError(f"{graph}: the graph has no input for the control '{name}'")
        for io in config.inputs:
            if io.get("optional") and config.max_batch_size:
                raise ConfigError(
                    f"{graph}: optional input '{io['name']}' is not supported for models that "
                    "support batching"
                )
            _validate_tensor(graph, "input", io, self.inputs, bool(config.max_batch_size))
        for io in config.outputs:
            _validate_tensor(graph, "output", io, self.outputs, bool(config.max_batch_size))

    def _validate_state(self, state: StateSpec) -> None:
        name = f"model '{self.config.name}', state '{state.input_name}'"
        for tensor, tensors in (
            (state.input_name, self.inputs),
            (state.output_name, self.outputs),
        ):
            if tensor not in tensors:
                raise ConfigError(f"{name}: the graph has no tensor '{tensor}'")
            info = tensors[tensor]
            if info.type.triton and info.type.triton != state.data_type:
                raise ConfigError(
                    f"{name}: the configuration has {state.data_type} and the graph's '{tensor}' "
                    f"{info.type.triton}"
                )


def _validate_tensor(
    model: str, what: str, io: dict[str, Any], infos: dict[str, TensorInfo], batched: bool
) -> None:
    name = io["name"]
    if name not in infos:
        raise ConfigError(
            f"{model}: unexpected {what} '{name}'; the graph has {', '.join(sorted(infos))}"
        )
    info = infos[name]
    if io["data_type"] != info.type.triton:
        raise ConfigError(
            f"{model}: configuration expects datatype {io['data_type']} for {what} '{name}', "
            f"model provides {info.type.triton or 'one that Triton has no tensors of'}"
        )
    shape = io["reshape"].get("shape", []) if "reshape" in io else io["dims"]
    dims = ([-1] if batched else []) + [int(dim) for dim in shape]
    if not info.shape and all(dim == 1 for dim in dims):
        return
    if len(dims) != len(info.shape) or any(
        -1 not in (ours, theirs) and ours != theirs
        for ours, theirs in zip(dims, info.shape, strict=True)
    ):
        raise ConfigError(
            f"{model}: {what} '{name}' has the shape {list(info.shape)} in the graph and {dims} "
            f"in the configuration{', with the batch in front' if batched else ''}"
        )
