"""Conversion of Triton's requests and responses from and to arrays."""

from __future__ import annotations

import json
import logging
from typing import Any

import triton_python_backend_utils as pb_utils

from backends.contract.errors import EngineError, InvalidField
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.sequences import SequenceId
from backends.onnxruntime_shim.tensors import Arrays, from_graph, to_graph

logger = logging.getLogger(__name__)


def read_inputs(request: Any, graph: OnnxGraph) -> Arrays:  # noqa: ANN401
    """Return the inputs of a request by name, as the graph takes them, without the state.

    The arrays are valid as long as the request exists. Raises `InvalidField` for an input that is
    missing, unknown, or of the wrong datatype or shape.
    """
    inputs = {}
    for tensor in request.inputs():
        name = tensor.name()
        if name in graph.state_inputs:
            continue
        if name not in graph.inputs:
            raise InvalidField(f"input '{name}'", "is not an input of the graph")
        inputs[name] = to_graph(graph.inputs[name], tensor.as_numpy())
    for name in graph.required_inputs - inputs.keys():
        raise InvalidField(f"input '{name}'", "is missing")
    return inputs


def response(outputs: Arrays) -> Any:  # noqa: ANN401
    """Return a Triton response with the outputs, which are given by name."""
    tensors = [pb_utils.Tensor(name, from_graph(array)) for name, array in outputs.items()]
    return pb_utils.InferenceResponse(tensors)


def error_response(error: Exception) -> Any:  # noqa: ANN401
    """Return a Triton response with an error, with the status and code of an `EngineError`."""
    engine_error = error if isinstance(error, EngineError) else EngineError(str(error))
    status = getattr(pb_utils.TritonError, engine_error.status)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(engine_error.wire_text, status))


class SequenceCall:
    """A request for one step of a sequence, which gets exactly one response, after it has run."""

    def __init__(self, request: Any) -> None:  # noqa: ANN401
        # The memory of its tensors is freed with the request.
        self._request = request
        self._sender = request.get_response_sender()
        self.sequence: SequenceId = request.correlation_id()
        flags = request.flags()
        self.starts = bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
        self.ends = bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)

    @property
    def releases(self) -> bool:
        """Return True if the sequence is to end without any computation."""
        if not self.ends:
            return False
        parameters = self._request.parameters()
        return bool(json.loads(parameters).get("release", False)) if parameters else False

    @property
    def output_names(self) -> list[str]:
        """Return the names of the outputs that the request asks for."""
        return list(self._request.requested_output_names())

    def inputs(self, graph: OnnxGraph) -> Arrays:
        """Return the inputs by name, see `read_inputs`."""
        return read_inputs(self._request, graph)

    def is_cancelled(self) -> bool:
        """Return True if the client has cancelled the request."""
        return bool(self._sender.is_cancelled())

    def respond(self, outputs: Arrays) -> None:
        """Send the requested ones of ``outputs``."""
        self._send(response({name: outputs[name] for name in self.output_names}))

    def fail(self, error: Exception) -> None:
        """Send an error."""
        self._send(error_response(error))

    def _send(self, result: Any) -> None:  # noqa: ANN401
        try:
            self._sender.send(result, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except pb_utils.TritonModelException:  # The client no longer waits.
            logger.exception("a response could not be sent")
