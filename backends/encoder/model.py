"""The Triton model class in front of an encoder's or classifier's ONNX graph: texts in.

It tokenises, and calls the graph, a Triton model of its own, inside the server. Each request runs
in a thread of its own, so that Triton's dynamic batcher joins the calls of concurrent requests.

``parameters`` of ``config.pbtxt``:

====================  ==========================================================================
model                 the tokenizer: a folder beside ``model.py``
encoder               the graph's Triton model
input_names           the graph's inputs, of ``input_ids,attention_mask,token_type_ids``
context_length        tokens of one text
pad_token_id
max_batch_size        the graph's
embedding_dimension   of an encoder
labels                of a classifier: JSON list of names, by number
score                 of a classifier: how logits become a score, ``softmax``, ``sigmoid``, ``none``
model_parameters      the number of weights
dtype                 of the weights: ``float32``, ``float16``, ``int8``, ``int4``
served_model_name     the name that clients use (the Triton model's name)
max_queue_size        requests that may be in work or waiting; one more is refused (1024)
====================  ==========================================================================

Docs: https://github.com/triton-inference-server/python_backend#business-logic-scripting
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from backends.contract import TensorSpec, flag, texts
from backends.encoder.batching import Batch, plan
from backends.encoder.contract import INPUTS, NUM_INPUT_TOKENS, TEXT_OUTPUT
from backends.encoder.heads import Head, head
from backends.encoder.tokens import Row, TextTokenizer
from backends.errors import EngineError, InvalidField, Overloaded
from backends.serving import (
    ModelOptions,
    accept_each,
    answer,
    as_engine_error,
    freeze_loaded,
    refuse,
    set_up_process,
    tensor_config,
)

REQUEST_THREADS = 32
CALL_THREADS = 64
"""Calls of the graph in flight: what the dynamic batcher can join. They wait and do nothing."""


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401
        parameters = config.as_dict().get("parameters", {})
        made = head({key: value["string_value"] for key, value in parameters.items()})
        for spec in INPUTS:
            config.add_input(tensor_config(spec) | {"optional": True})
        for spec in (*made.outputs, NUM_INPUT_TOKENS, TEXT_OUTPUT):
            config.add_output(tensor_config(spec))
        config.set_max_batch_size(0)
        config.set_model_transaction_policy({"decoupled": False})
        return config

    def initialize(self, args: dict[str, str]) -> None:
        set_up_process()
        self.options = ModelOptions.of(args)
        parameters = self.options.parameters
        self._encoder = parameters["encoder"]
        self._context_length = int(parameters["context_length"])
        self._max_batch_size = int(parameters["max_batch_size"])
        self._head: Head = head(parameters)
        self._tokenizer = TextTokenizer(
            self.options.model,
            parameters["input_names"].split(","),
            self._context_length,
            int(parameters["pad_token_id"]),
        )
        self._requests = ThreadPoolExecutor(REQUEST_THREADS, "request")
        self._calls = ThreadPoolExecutor(CALL_THREADS, "call")
        self._room = threading.Semaphore(int(parameters.get("max_queue_size", "1024")))
        freeze_loaded()

    def execute(self, requests: list[Any]) -> None:
        accept_each(requests, self._accept)

    def _accept(self, request: Any, sender: Any) -> None:  # noqa: ANN401
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if flag(inputs, "describe"):
            return answer(sender, json.dumps(self._facts()).encode())
        given = texts(inputs, "text_input")
        if not given:
            raise InvalidField("text_input", "must hold at least one text")
        for number, text in enumerate(given):
            if not text:
                raise InvalidField("text_input", f"text {number} is empty")
        if not self._room.acquire(blocking=False):
            raise Overloaded("too many requests are waiting: try again later")
        try:
            self._requests.submit(self._serve, given, bool(flag(inputs, "truncate")), sender)
        except BaseException:
            self._room.release()
            raise

    def _serve(self, given: list[str], truncate: bool, sender: Any) -> None:  # noqa: ANN401
        try:
            rows = self._tokenizer.encode(given, truncate=truncate)
            outputs = self._head.finish(self._run(rows))
            tokens = np.array([len(row["input_ids"]) for row in rows], np.uint32)
            response = _response([*outputs, (NUM_INPUT_TOKENS, tokens)])
        except Exception as error:
            refuse(sender, as_engine_error(error))
        else:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            self._room.release()

    def _run(self, rows: list[Row]) -> NDArray[np.float32]:
        """The graph's output for each row, in their order."""
        lengths = [len(row["input_ids"]) for row in rows]
        batches = plan(lengths, self._max_batch_size, self._context_length)
        results = self._calls.map(lambda batch: self._call(rows, batch), batches)
        made: NDArray[np.float32] | None = None
        for batch, result in zip(batches, results, strict=True):
            if made is None:
                made = np.empty((len(rows), *result.shape[1:]), np.float32)
            made[list(batch.texts)] = result
        assert made is not None
        return made

    def _call(self, rows: list[Row], batch: Batch) -> NDArray[np.float32]:
        tensors = self._tokenizer.batch([rows[text] for text in batch.texts], batch.length)
        response = pb_utils.InferenceRequest(
            model_name=self._encoder,
            requested_output_names=[self._head.graph_output],
            inputs=[pb_utils.Tensor(name, value) for name, value in tensors.items()],
            # A graph on a GPU leaves its output there otherwise, where numpy cannot read it.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            raise EngineError(f"{self._encoder}: {response.error().message()}")
        output: NDArray[np.float32] = pb_utils.get_output_tensor_by_name(
            response, self._head.graph_output
        ).as_numpy()
        return output

    def _facts(self) -> dict[str, Any]:
        """Raises `EngineError` where the graph is not loaded: health is that of both models."""
        if not pb_utils.is_model_ready(self._encoder):
            raise EngineError(f"{self._encoder}: is not loaded")
        parameters = self.options.parameters
        return self._head.facts | {
            "backend": "onnx",
            "model_name": self.options.served_name,
            "context_length": self._context_length,
            "max_batch_size": self._max_batch_size,
            "parameters": int(parameters["model_parameters"]),
            "dtype": parameters["dtype"],
            "tokenizer_loaded": True,
        }

    def finalize(self) -> None:
        self._requests.shutdown()
        self._calls.shutdown()


def _response(outputs: Iterable[tuple[TensorSpec, NDArray[Any]]]) -> Any:  # noqa: ANN401
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(spec.name, value) for spec, value in outputs]
    )
