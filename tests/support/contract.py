"""Our contract through NVIDIA's own client, straight at Triton."""

from __future__ import annotations

import json
import queue
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

__all__ = ["Answer", "InferenceServerException", "cancel", "describe", "infer"]

_DATATYPES = {bytes: ("BYTES", np.object_), bool: ("BOOL", np.bool_), int: ("INT32", np.int32)}


@dataclass
class Answer:
    """All responses of a request, by output."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    responses: list[dict[str, Any]] = field(default_factory=list)


def infer(address: str, model: str, *, request_id: str = "", **inputs: Any) -> Answer:  # noqa: ANN401
    """``sampling_parameters`` may be a mapping; texts are str, lists are INT32."""
    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpcclient.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        client.async_stream_infer(
            model,
            [_tensor(name, value) for name, value in inputs.items()],
            request_id=request_id,
            enable_empty_final_response=True,
        )
        answer = Answer()
        while True:
            result, error = results.get(timeout=60)
            if error is not None:
                raise error
            response = result.get_response()
            if response.outputs:
                outputs = {o.name: result.as_numpy(o.name) for o in response.outputs}
                answer.responses.append(outputs)
                answer.text += (
                    outputs["text_output"][0].decode() if "text_output" in outputs else ""
                )
                answer.token_ids += [int(i) for i in outputs.get("token_ids", ())]
            if response.parameters["triton_final_response"].bool_param:
                return answer


def _tensor(name: str, value: Any) -> grpcclient.InferInput:  # noqa: ANN401
    if isinstance(value, Mapping):
        value = json.dumps(value)
    if isinstance(value, str):
        value = value.encode()
    values = value if isinstance(value, list) else [value]
    datatype, dtype = _DATATYPES[type(values[0])]
    tensor = grpcclient.InferInput(name, [len(values)], datatype)
    tensor.set_data_from_numpy(np.array(values, dtype=dtype))
    return tensor


def cancel(address: str, model: str, request_id: str) -> int:
    """Return how many requests had this id and were ended."""
    return int(infer(address, model, request_kind="cancel", cancel_id=request_id).text)


def describe(address: str, model: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(infer(address, model, request_kind="describe").text)
    return facts
