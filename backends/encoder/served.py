"""The ``TritonPythonModel`` of text encoders and classifiers: texts, or token ids, in; a row for
each out. A subclass loads what computes the rows.

Texts are tokenised in the threads of a pool. Then each request has a thread of its own, so that
rows of concurrent requests meet in one batch.

Docs: https://github.com/triton-inference-server/python_backend#default-mode
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from backends.contract import parameters as keys
from backends.contract.encoder import NUM_INPUT_TOKENS
from backends.contract.errors import Cancelled, Overloaded
from backends.contract.facts import ModelFacts
from backends.contract.kinds import RequestKind, cancel_id, kind_of
from backends.contract.tensors import Inputs
from backends.encoder.request import EncoderRequest
from backends.encoder.runner import LoadedEncoder
from backends.encoder.tokens import Row
from backends.serving.model import (
    ModelOptions,
    accept_each,
    answer,
    attempt,
    complete,
    freeze_loaded,
    input_tensors,
    set_up_process,
    size,
    traced_if_slow,
)
from backends.serving.packages import missing_ones_are_named
from backends.serving.pool import WorkPool
from backends.serving.responder import Call, Responder, failure

REQUEST_THREADS = 32


class EncoderCall(Call):
    """A call that gets exactly one response, as models that are not decoupled have to give."""

    def _finish(self, last: Any) -> None:  # noqa: ANN401
        super()._finish(failure(Cancelled("the request was cancelled")) if last is None else last)


class ServedEncoder(ABC):
    """The base of encoders' and classifiers' models.

    ``parameters`` of ``config.pbtxt`` for all: ``served_model_name``, the name that clients use
    (the Triton model's name), and ``max_queue_size``, requests that may be in work or waiting, one
    more is refused (1024)."""

    @abstractmethod
    def load(self, options: ModelOptions) -> LoadedEncoder: ...

    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401
        """Add the contract's tensors and policies, which ``config.pbtxt`` need not repeat."""
        return complete(config, keys.TEXT_ENCODER)

    def initialize(self, args: dict[str, str]) -> None:
        self.options = ModelOptions.of(args)
        set_up_process(self.options)
        with missing_ones_are_named(), traced_if_slow():
            self._loaded = self.load(self.options)
        self._responder = Responder(interval=0)
        self._responder.start()
        self._pool = WorkPool()
        self._requests = ThreadPoolExecutor(REQUEST_THREADS, "request")
        self._max_queue_size = int(
            self.options.parameters.get(keys.MAX_QUEUE_SIZE, keys.ENCODER_MAX_QUEUE_SIZE)
        )
        freeze_loaded()

    def execute(self, requests: list[Any]) -> None:
        accept_each(requests, self._accept)

    def _accept(self, request: Any, sender: Any) -> None:  # noqa: ANN401
        inputs = input_tensors(request)
        kind = kind_of(inputs, default=RequestKind.EMBED, known=(RequestKind.EMBED, *AT_ONCE))
        if kind in AT_ONCE:
            return answer(sender, AT_ONCE[kind](self, inputs).encode())
        if len(self._responder) >= self._max_queue_size:
            raise Overloaded("too many requests are waiting: try again later")
        call = EncoderCall(request.request_id(), sender, self._responder)
        self._responder.add(call)
        read = partial(self._read, call, inputs)
        try:
            self._pool.submit(partial(attempt, call, read), size(inputs))
        except Overloaded as error:
            call.fail(error)

    def _read(self, call: Call, inputs: Inputs) -> None:
        rows = EncoderRequest.of(inputs).rows(self._loaded.tokenizer, call.raise_if_left)
        self._requests.submit(attempt, call, partial(self._compute, call, rows))

    def _compute(self, call: Call, rows: Sequence[Row]) -> None:
        outputs = self._loaded.head.finish(self._loaded.runner.run(rows, call.raise_if_left))
        tokens = np.array([len(row["input_ids"]) for row in rows], np.uint32)
        call.answer([(spec.name, value) for spec, value in [*outputs, (NUM_INPUT_TOKENS, tokens)]])

    def _cancel(self, inputs: Inputs) -> str:
        return str(self._responder.cancel(cancel_id(inputs)))

    def _describe(self, inputs: Inputs) -> str:
        """Return the facts as JSON. Raises `EngineError` where the model cannot serve."""
        self._loaded.runner.check()
        values = {
            **self._loaded.head.facts,
            **self._loaded.facts,
            "model_name": self.options.served_name,
            "context_length": self._loaded.tokenizer.context_length,
            "characters_per_token": self._loaded.tokenizer.characters_per_token,
            "tokenizer_loaded": True,
            "restarted_at": self.options.parameters.get(keys.RESTARTED_AT),
        }
        return ModelFacts.of(values).to_json()

    def finalize(self) -> None:
        self._pool.close()
        self._requests.shutdown()
        self._loaded.runner.close()
        self._responder.stop()


AT_ONCE: Mapping[RequestKind, Callable[[ServedEncoder, Inputs], str]] = {
    RequestKind.DESCRIBE: ServedEncoder._describe,
    RequestKind.CANCEL: ServedEncoder._cancel,
}
"""The kinds of requests that Triton's own thread answers."""
