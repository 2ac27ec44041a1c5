"""The decoupled ``TritonPythonModel`` that all engines share; a subclass makes its engine.

Docs: https://github.com/triton-inference-server/python_backend#decoupled-mode
"""

from __future__ import annotations

import faulthandler
import gc
import json
import locale
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from backends.contract import names
from backends.contract import parameters as keys
from backends.contract.completion import completion
from backends.contract.errors import EngineError
from backends.contract.facts import ModelFacts
from backends.contract.kinds import RequestKind, cancel_id, kind_of
from backends.contract.tensors import Inputs
from backends.engine import Engine
from backends.logs import BoundedFormatter
from backends.serving.generation import Generation
from backends.serving.packages import missing_ones_are_named
from backends.serving.pool import WorkPool
from backends.serving.reading import READERS, RequestReader
from backends.serving.responder import Call, Responder, failure, response
from backends.serving.weights_digest import digest_or_none, weights_folder
from backends.text.tokenizer import HuggingFaceTokenizer
from backends.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

SLOW_LOAD_SECONDS = 100
"""A load that takes longer says in the log, once, where it is: it may hang."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The name, folder and ``parameters`` in a model's ``config.pbtxt``."""

    name: str
    version_folder: Path
    parameters: dict[str, str]

    @classmethod
    def of(cls, args: Mapping[str, str]) -> ModelOptions:
        """Return the options in the arguments of ``initialize``."""
        parameters = json.loads(args["model_config"])["parameters"]
        return cls(
            args["model_name"],
            Path(args["model_repository"]) / args["model_version"],
            {key: value["string_value"] for key, value in parameters.items()},
        )

    @property
    def model(self) -> str:
        """Return where the weights are: a folder, such as one beside ``model.py``, or a hub id."""
        value = self.parameters.get(keys.MODEL, keys.DEFAULT_MODEL)
        beside = self.version_folder / value
        return str(beside) if beside.is_dir() else value

    @property
    def revision(self) -> str | None:
        """Return the revision of a hub id, where one is named."""
        return self.parameters.get("revision")

    @property
    def enable_streaming(self) -> bool:
        return self.parameters.get(keys.ENABLE_STREAMING, "true") != "false"

    @property
    def stream_interval(self) -> float:
        """Return the time between two responses of a stream, in seconds."""
        interval = self.parameters.get(keys.STREAM_INTERVAL_MS, keys.DEFAULT_STREAM_INTERVAL_MS)
        return int(interval) / 1e3

    @property
    def allow_control_tokens(self) -> bool:
        return self.parameters.get(keys.ALLOW_CONTROL_TOKENS, "false") == "true"

    @property
    def spin_count(self) -> int:
        """Return how many times a thread without work looks for some before it sleeps."""
        return int(self.parameters.get(keys.SPIN_COUNT, keys.DEFAULT_SPIN_COUNT))

    @property
    def served_name(self) -> str:
        return self.parameters.get(keys.SERVED_MODEL_NAME, self.name)


def complete(config: Any, contract: str) -> Any:  # noqa: ANN401
    """Return a configuration of the Python backend with what the contract says."""
    parameters = config.as_dict().get("parameters", {})
    said = completion(contract, {key: value["string_value"] for key, value in parameters.items()})
    for tensor in said["input"]:
        config.add_input(tensor)
    for tensor in said["output"]:
        config.add_output(tensor)
    config.set_max_batch_size(said["max_batch_size"])
    config.set_model_transaction_policy(said["model_transaction_policy"])
    return config


def set_up_process(options: ModelOptions) -> None:
    """Set up what a model's process needs before it imports or reads anything."""
    # Texts are tokenised in a thread of ours, and not in as many more as there are cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # libgomp, whose threads carry out PyTorch's operations, reads this when PyTorch is imported.
    # https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(options.spin_count))
    # The embedded interpreter starts in the C locale, where text files are read as ASCII.
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    handler = logging.StreamHandler()
    handler.setFormatter(BoundedFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


@contextmanager
def traced_if_slow() -> Iterator[None]:
    """Write to the log where a load is that takes longer than `SLOW_LOAD_SECONDS`."""
    faulthandler.dump_traceback_later(SLOW_LOAD_SECONDS)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def freeze_loaded() -> None:
    """Exempt what is loaded from garbage collection: each full one would stall all requests."""
    gc.collect()
    gc.freeze()


class ServedModel(ABC):
    """Base of every ``TritonPythonModel``.

    Triton's thread calls ``execute``, which answers what asks about the model, and passes the rest
    on to a pool: there a prompt is read, and submitted to the engine. `Generation` and `Responder`
    do the rest.
    """

    @abstractmethod
    def create_engine(self, options: ModelOptions) -> Engine: ...

    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401
        """Add the contract's tensors and policies, which ``config.pbtxt`` need not repeat."""
        return complete(config, keys.LANGUAGE_MODEL)

    def initialize(self, args: dict[str, str]) -> None:
        self.options = ModelOptions.of(args)
        set_up_process(self.options)
        with missing_ones_are_named(), traced_if_slow():
            self._load()

    def _load(self) -> None:
        self.tokenizer = self.create_tokenizer(self.options)
        self.engine = self.create_engine(self.options)
        self.weights = digest_or_none(self.folders(self.options))
        self.front = RequestReader(self.engine, self.tokenizer, self.options.enable_streaming)
        self.responder = Responder(self.options.stream_interval)
        self.responder.start()
        self.pool = WorkPool()
        freeze_loaded()

    def create_tokenizer(self, options: ModelOptions) -> Tokenizer:
        return HuggingFaceTokenizer(
            options.model, allow_control_tokens=options.allow_control_tokens
        )

    def folders(self, options: ModelOptions) -> dict[str, Path]:
        """Return the folders that answers depend on, by what each is for. Without weights, that is
        the one of ``model.py``."""
        return {"model": weights_folder(options.model, options.revision) or options.version_folder}

    def execute(self, requests: list[Any]) -> None:
        accept_each(requests, self._accept)

    def _accept(self, request: Any, sender: Any) -> None:  # noqa: ANN401
        inputs = input_tensors(request)
        kind = kind_of(inputs, default=RequestKind.GENERATE, known=(*AT_ONCE, *READERS))
        if kind in AT_ONCE:
            return answer(sender, AT_ONCE[kind](self, inputs).encode())
        call = self._call(kind, request.request_id(), sender)
        self.responder.add(call)
        read = partial(self.front.read, kind, call, inputs, request.parameters())
        try:
            self.pool.submit(partial(attempt, call, read), size(inputs))
        except EngineError as error:
            call.fail(error)

    def _call(self, kind: RequestKind, request_id: str, sender: Any) -> Call:  # noqa: ANN401
        if kind is not RequestKind.GENERATE:
            return Call(request_id, sender, self.responder)
        return Generation(request_id, sender, self.responder, self.tokenizer, self.pool.run_long)

    def _metrics(self, inputs: Inputs) -> str:
        return self.engine.metrics()

    def _cancel(self, inputs: Inputs) -> str:
        return str(self.responder.cancel(cancel_id(inputs)))

    def _describe(self, inputs: Inputs) -> str:
        values = self.engine.describe() | {
            "model_name": self.options.served_name,
            "tokenizer_loaded": True,
            "characters_per_token": self.tokenizer.characters_per_token,
            "tokenize_length": self.front.tokenize_length,
            "chat": self.tokenizer.chat_format.describe()
            | {"keeps_texts": self.tokenizer.keeps_texts},
            "requests": len(self.responder),
            "weights": self.weights,
            "restarted_at": self.options.parameters.get(keys.RESTARTED_AT),
        }
        return ModelFacts.of(values).to_json()

    def finalize(self) -> None:
        self.pool.close()
        self.engine.close()
        self.responder.stop()


AT_ONCE: Mapping[RequestKind, Callable[[ServedModel, Inputs], str]] = {
    RequestKind.DESCRIBE: ServedModel._describe,
    RequestKind.METRICS: ServedModel._metrics,
    RequestKind.CANCEL: ServedModel._cancel,
}
"""The kinds of requests that Triton's own thread answers."""


def input_tensors(request: Any) -> dict[str, NDArray[Any]]:  # noqa: ANN401
    """Return copies of the inputs: Triton may use their memory again before they are read."""
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in request.inputs()}


def size(inputs: Inputs) -> int:
    """Return how many bytes of texts and numbers there are."""
    return sum(
        sum(map(len, array.reshape(-1))) if array.dtype == np.object_ else array.nbytes
        for array in inputs.values()
    )


def attempt(call: Call, work: Callable[[], None]) -> None:
    """Do the ``work`` for a request, and answer the request with what it raises."""
    try:
        call.raise_if_left()
        work()
    except Exception as error:
        call.fail(as_engine_error(error))


def accept_each(requests: list[Any], accept: Callable[[Any, Any], None]) -> None:
    """Call ``accept(request, sender)`` for each request, and answer with what it raises."""
    for request in requests:
        sender = request.get_response_sender()
        try:
            accept(request, sender)
        except Exception as error:
            refuse(sender, as_engine_error(error))


def as_engine_error(error: Exception) -> EngineError:
    """Return an error of ours as it is; log any other, which is a defect, and name its class."""
    if isinstance(error, EngineError):
        return error
    logger.error("a request failed", exc_info=error)
    return EngineError(f"{type(error).__name__}: {error}")


def answer(sender: Any, body: bytes) -> None:  # noqa: ANN401
    outputs = [(names.TEXT_OUTPUT, np.array([body], np.object_))]
    sender.send(response(outputs), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def refuse(sender: Any, error: EngineError) -> None:  # noqa: ANN401
    sender.send(failure(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
