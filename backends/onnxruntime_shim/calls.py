"""Triton's requests and responses, in terms of arrays."""

from __future__ import annotations

import json
import logging
from typing import Any

import triton_python_backend_utils as pb_utils

from backends.contract.errors import EngineError, InvalidField
from backends.onnxruntime_shim.graph import Graph
from backends.onnxruntime_shim.sequences import SequenceId
from backends.onnxruntime_shim.tensors import Arrays, from_graph, to_graph

logger = logging.getLogger(__name__)


def read_inputs(request: Any, graph: Graph) -> Arrays:  # noqa: ANN401
    """By name, as the graph takes them, but for the state. Valid as long as the request is.

    Raises `InvalidField`.
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
    tensors = [pb_utils.Tensor(name, from_graph(array)) for name, array in outputs.items()]
    return pb_utils.InferenceResponse(tensors)


def error_response(error: Exception) -> Any:  # noqa: ANN401
    engine_error = error if isinstance(error, EngineError) else EngineError(str(error))
    status = getattr(pb_utils.TritonError, engine_error.status)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(engine_error.wire_text, status))


class SequenceCall:
    """One step of a sequence, answered when it has run: exactly once."""

    def __init__(self, request: Any) -> None:  # noqa: ANN401
        # Its tensors lie in memory that is given back when the request goes.
        self._request = request
        self._sender = request.get_response_sender()
        self.sequence: SequenceId = request.correlation_id()
        flags = request.flags()
        self.starts = bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
        self.ends = bool(flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)

    @property
    def releases(self) -> bool:
        """Nothing is to be computed: the sequence ends here."""
        if not self.ends:
            return False
        parameters = self._request.parameters()
        return bool(json.loads(parameters).get("release", False)) if parameters else False

    @property
    def output_names(self) -> list[str]:
        return list(self._request.requested_output_names())

    def inputs(self, graph: Graph) -> Arrays:
        return read_inputs(self._request, graph)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def answer(self, outputs: Arrays) -> None:
        self._send(response({name: outputs[name] for name in self.output_names}))

    def fail(self, error: Exception) -> None:
        self._send(error_response(error))

    def _send(self, result: Any) -> None:  # noqa: ANN401
        try:
            self._sender.send(result, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except pb_utils.TritonModelException:  # nobody waits for it any more
            logger.exception("an answer could not be sent")
