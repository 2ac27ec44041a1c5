"""The ``TritonPythonModel`` of text encoders and classifiers: texts, or token ids, in; a row for
each out. A subclass loads what computes the rows.

Each request runs in a thread of its own, so that rows of concurrent requests meet in one batch.

Docs: https://github.com/triton-inference-server/python_backend#default-mode
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from backends.contract import TensorSpec, flag
from backends.encoder.contract import INPUTS, NUM_INPUT_TOKENS, TEXT_OUTPUT
from backends.encoder.heads import head
from backends.encoder.request import EncoderRequest
from backends.encoder.runner import LoadedEncoder
from backends.errors import Overloaded
from backends.packages import missing_ones_are_named
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


class ServedEncoder(ABC):
    """``parameters`` of ``config.pbtxt`` for all: ``served_model_name``, the name that clients use
    (the Triton model's name), and ``max_queue_size``, requests that may be in work or waiting, one
    more is refused (1024)."""

    @abstractmethod
    def load(self, options: ModelOptions) -> LoadedEncoder: ...

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
        with missing_ones_are_named():
            self._loaded = self.load(self.options)
        self._requests = ThreadPoolExecutor(REQUEST_THREADS, "request")
        self._room = threading.Semaphore(int(self.options.parameters.get("max_queue_size", "1024")))
        freeze_loaded()

    def execute(self, requests: list[Any]) -> None:
        accept_each(requests, self._accept)

    def _accept(self, request: Any, sender: Any) -> None:  # noqa: ANN401
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if flag(inputs, "describe"):
            return answer(sender, json.dumps(self._facts()).encode())
        decoded = EncoderRequest.of(inputs)
        if not self._room.acquire(blocking=False):
            raise Overloaded("too many requests are waiting: try again later")
        try:
            self._requests.submit(self._serve, decoded, sender)
        except BaseException:
            self._room.release()
            raise

    def _serve(self, request: EncoderRequest, sender: Any) -> None:  # noqa: ANN401
        try:
            rows = request.rows(self._loaded.tokenizer)
            outputs = self._loaded.head.finish(self._loaded.runner.run(rows))
            tokens = np.array([len(row["input_ids"]) for row in rows], np.uint32)
            response = _response([*outputs, (NUM_INPUT_TOKENS, tokens)])
        except Exception as error:
            refuse(sender, as_engine_error(error))
        else:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            self._room.release()

    def _facts(self) -> dict[str, Any]:
        """Raises `EngineError` where the model cannot serve."""
        self._loaded.runner.check()
        return {
            **self._loaded.head.facts,
            **self._loaded.facts,
            "model_name": self.options.served_name,
            "context_length": self._loaded.tokenizer.context_length,
            "tokenizer_loaded": True,
        }

    def finalize(self) -> None:
        self._requests.shutdown()
        self._loaded.runner.close()


def _response(outputs: Iterable[tuple[TensorSpec, NDArray[Any]]]) -> Any:  # noqa: ANN401
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(spec.name, value) for spec, value in outputs]
    )
