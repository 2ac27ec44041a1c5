"""The Triton model class in front of an encoder's or classifier's ONNX graph: texts in.

It tokenises, and calls the graph, a Triton model of its own, inside the server, where Triton's
dynamic batcher joins the calls of concurrent requests.

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

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from backends.contract import parameters as keys
from backends.contract.errors import GraphFailed, of_graph
from backends.encoder.batching import Batch, plan
from backends.encoder.heads import head
from backends.encoder.runner import LoadedEncoder
from backends.encoder.served import ServedEncoder
from backends.encoder.tokens import Check, Row, TextTokenizer, nothing
from backends.serving.model import ModelOptions

CALL_THREADS = 64
"""Calls of the graph in flight: what the dynamic batcher can join. They wait and do nothing."""


class TritonPythonModel(ServedEncoder):
    def load(self, options: ModelOptions) -> LoadedEncoder:
        parameters = options.parameters
        tokenizer = TextTokenizer(
            options.model,
            parameters[keys.INPUT_NAMES].split(","),
            int(parameters[keys.CONTEXT_LENGTH]),
            int(parameters[keys.PAD_TOKEN_ID]),
        )
        output_head = head(parameters)
        max_batch_size = int(parameters[keys.MAX_BATCH_SIZE])
        runner = GraphRunner(
            parameters[keys.ENCODER], output_head.graph_output, tokenizer, max_batch_size
        )
        facts = {
            "backend": "onnx",
            "max_batch_size": max_batch_size,
            "parameters": int(parameters[keys.MODEL_PARAMETERS]),
            "dtype": parameters[keys.DTYPE],
        }
        return LoadedEncoder(tokenizer, output_head, runner, facts)


class GraphRunner:
    """Implements `RowRunner` by calls of a Triton model, ``graph``."""

    def __init__(
        self, graph: str, output: str, tokenizer: TextTokenizer, max_batch_size: int
    ) -> None:
        self._graph = graph
        self._output = output
        self._tokenizer = tokenizer
        self._max_batch_size = max_batch_size
        self._calls = ThreadPoolExecutor(CALL_THREADS, "call")

    def run(self, rows: Sequence[Row], check: Check = nothing) -> NDArray[np.float32]:
        lengths = [len(row["input_ids"]) for row in rows]
        batches = plan(lengths, self._max_batch_size, self._tokenizer.context_length)
        results = self._calls.map(lambda batch: self._call(rows, batch, check), batches)
        outputs: NDArray[np.float32] | None = None
        for batch, result in zip(batches, results, strict=True):
            if outputs is None:
                outputs = np.empty((len(rows), *result.shape[1:]), np.float32)
            outputs[list(batch.texts)] = result
        assert outputs is not None
        return outputs

    def _call(self, rows: Sequence[Row], batch: Batch, check: Check) -> NDArray[np.float32]:
        check()
        tensors = self._tokenizer.batch([rows[text] for text in batch.texts], batch.length)
        response = pb_utils.InferenceRequest(
            model_name=self._graph,
            requested_output_names=[self._output],
            inputs=[pb_utils.Tensor(name, value) for name, value in tensors.items()],
            # A graph on a GPU leaves its output there otherwise, where numpy cannot read it.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            raise of_graph(self._graph, response.error().message())
        output: NDArray[np.float32] = pb_utils.get_output_tensor_by_name(
            response, self._output
        ).as_numpy()
        return output

    def check(self) -> None:
        """Raise `GraphFailed` if the graph is not loaded: both models must be."""
        if not pb_utils.is_model_ready(self._graph):
            raise GraphFailed(f"{self._graph}: is not loaded")

    def close(self) -> None:
        self._calls.shutdown()
