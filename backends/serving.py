"""The decoupled ``TritonPythonModel`` that all engines share; a subclass makes its engine.

Docs: https://github.com/triton-inference-server/python_backend#decoupled-mode
"""

from __future__ import annotations

import faulthandler
import gc
import json
import locale
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from backends.attribution import AttributionRequest
from backends.contract import (
    INPUTS,
    OUTPUTS,
    GenerationRequest,
    Inputs,
    TensorSpec,
    decode_request,
    flag,
    text,
)
from backends.engine import Engine
from backends.errors import EngineError, InvalidField
from backends.generation import Generation, Responder, triton_error
from backends.packages import missing_ones_are_named
from backends.text import Tokenizer

logger = logging.getLogger(__name__)

DEFAULT_STREAM_INTERVAL_MS = 20
"""50 events a second: nobody reads faster."""

SLOW_LOAD_SECONDS = 100
"""A load that takes longer says in the log, once, where it is: it may hang."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What a model's ``config.pbtxt`` says: its name, folder, and ``parameters``."""

    name: str
    version_folder: Path
    parameters: dict[str, str]

    @classmethod
    def of(cls, args: Mapping[str, str]) -> ModelOptions:
        """``args``: those of ``initialize``."""
        parameters = json.loads(args["model_config"])["parameters"]
        return cls(
            args["model_name"],
            Path(args["model_repository"]) / args["model_version"],
            {key: value["string_value"] for key, value in parameters.items()},
        )

    @property
    def model(self) -> str:
        """Weights: a folder beside ``model.py``, a folder anywhere, or a hub id."""
        value = self.parameters.get("model", "weights")
        beside = self.version_folder / value
        return str(beside) if beside.is_dir() else value

    @property
    def enable_streaming(self) -> bool:
        return self.parameters.get("enable_streaming", "true") != "false"

    @property
    def stream_interval(self) -> float:
        """Seconds."""
        return int(self.parameters.get("stream_interval_ms", DEFAULT_STREAM_INTERVAL_MS)) / 1e3

    @property
    def served_name(self) -> str:
        return self.parameters.get("served_model_name", self.name)


def set_up_process() -> None:
    """What a model's process needs before it imports or reads anything."""
    # The embedded interpreter starts in the C locale, where text files are read as ASCII.
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def freeze_loaded() -> None:
    """What is loaded by now stays: walking it in every full collection would stall all requests."""
    gc.collect()
    gc.freeze()


class ServedModel(ABC):
    """Base of every ``TritonPythonModel``.

    Triton's thread calls ``execute``, which decodes, encodes text to tokens, and submits to the
    engine; `Generation` and `Responder` do the rest.
    """

    @abstractmethod
    def create_engine(self, options: ModelOptions) -> Engine: ...

    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401
        """The contract's tensors and policies, so that ``config.pbtxt`` need not repeat them."""
        for spec in INPUTS:
            config.add_input(tensor_config(spec) | {"optional": spec.optional})
        for spec in OUTPUTS:
            config.add_output(tensor_config(spec))
        config.set_max_batch_size(0)
        config.set_model_transaction_policy({"decoupled": True})
        return config

    def initialize(self, args: dict[str, str]) -> None:
        set_up_process()
        faulthandler.dump_traceback_later(SLOW_LOAD_SECONDS)
        try:
            with missing_ones_are_named():
                self._load(args)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _load(self, args: dict[str, str]) -> None:
        self.options = ModelOptions.of(args)
        self.tokenizer = self.create_tokenizer(self.options)
        self.engine = self.create_engine(self.options)
        self.responder = Responder(self.options.stream_interval)
        self.responder.start()
        freeze_loaded()

    def create_tokenizer(self, options: ModelOptions) -> Tokenizer:
        return Tokenizer(options.model)

    def execute(self, requests: list[Any]) -> None:
        accept_each(requests, self._accept)

    def _accept(self, request: Any, sender: Any) -> None:  # noqa: ANN401
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if flag(inputs, "describe"):
            return self._describe(sender)
        if flag(inputs, "metrics"):
            return answer(sender, self.engine.metrics().encode())
        if (request_id := text(inputs, "cancel")) is not None:
            return answer(sender, str(self.responder.cancel(request_id)).encode())
        if flag(inputs, "attributions"):
            return self._attribute(inputs, sender)
        decoded = decode_request(inputs, request.parameters())
        if decoded.stream and not self.options.enable_streaming:
            raise InvalidField("stream", "must be false: this model's answers come whole")
        prompt_ids, in_reasoning = self._encode(decoded)
        if flag(inputs, "tokenize"):
            return answer(sender, self._tokenized(prompt_ids))
        if flag(inputs, "detokenize"):
            text_ = self.tokenizer.decode(prompt_ids, skip_special_tokens=False)
            return answer(sender, text_.encode())
        self._check_fits(decoded, prompt_ids)
        if flag(inputs, "profile"):
            return self.engine.trace(prompt_ids, decoded.sampling, _answering(sender))
        generation = Generation(
            request.request_id(),
            decoded,
            prompt_ids,
            self.tokenizer,
            self.responder,
            sender,
            in_reasoning=in_reasoning,
        )
        self.responder.add(generation)
        try:
            self.engine.submit(generation.engine_request)
        except Exception:
            generation.abandon()
            raise

    def _encode(self, request: GenerationRequest) -> tuple[list[int], bool]:
        """The prompt's ids, and whether it ends inside of a block of reasoning."""
        if request.prompt_token_ids is not None:
            ids, vocabulary = request.prompt_token_ids, self.engine.vocab_size
            if any(not 0 <= id_ < vocabulary for id_ in ids):
                raise InvalidField(
                    "prompt_token_ids", f"must hold token ids from 0 to {vocabulary - 1}"
                )
            return list(ids), False
        if request.messages is None:
            special = request.add_special_tokens is not False
            return self.tokenizer.encode(request.prompt or "", add_special_tokens=special), False
        text_ = self.tokenizer.render_chat(request.messages, request.tools, request.chat_options)
        ids_ = self.tokenizer.encode(text_, add_special_tokens=bool(request.add_special_tokens))
        return ids_, self.tokenizer.chat_format.in_reasoning(text_)

    def _tokenized(self, ids: list[int]) -> bytes:
        body = {"token_ids": ids, "texts": [self.tokenizer.token(id_)[0] for id_ in ids]}
        return json.dumps(body).encode()

    def _attribute(self, inputs: Inputs, sender: Any) -> None:  # noqa: ANN401
        request = AttributionRequest(self.engine, self.tokenizer, _answering(sender))
        request.start(text(inputs, "text_input"), text(inputs, "target"))

    def _check_fits(self, request: GenerationRequest, prompt_ids: list[int]) -> None:
        context, given = self.engine.context_length, len(prompt_ids)
        if not 0 < given < context:
            raise InvalidField(
                request.prompt_input,
                f"must have from 1 to {context - 1} tokens, not {given}: the model's "
                f"context is {context} tokens, and at least one is for the answer",
            )
        if request.sampling.max_tokens > context:
            raise InvalidField(
                "max_tokens", f"must be from 1 to {context}, the model's context in tokens"
            )
        adapter, adapters = request.sampling.lora_name, self.engine.adapters
        if adapter is not None and adapter not in adapters:
            raise InvalidField(
                "lora_name",
                f"is not an adapter of this model; it has {', '.join(adapters) or 'none'}",
            )
        for id_, _ in request.sampling.logit_bias:
            if id_ >= self.engine.vocab_size:
                raise InvalidField(
                    "logit_bias", f"must have token ids from 0 to {self.engine.vocab_size - 1}"
                )
        resumed, left = request.resume_token_ids, min(request.sampling.max_tokens, context - given)
        vocabulary = self.engine.vocab_size
        if len(resumed) >= left or any(not 0 <= id_ < vocabulary for id_ in resumed):
            raise InvalidField(
                "resume_token_ids",
                f"must hold fewer than {left} ids, each from 0 to {vocabulary - 1}",
            )

    def _describe(self, sender: Any) -> None:  # noqa: ANN401
        facts = self.engine.describe() | {
            "model_name": self.options.served_name,
            "tokenizer_loaded": True,
            "chat": self.tokenizer.chat_format.describe(),
            "requests": len(self.responder),
        }
        answer(sender, json.dumps(facts).encode())

    def finalize(self) -> None:
        self.engine.close()
        self.responder.stop()


def accept_each(requests: list[Any], accept: Callable[[Any, Any], None]) -> None:
    """``accept(request, sender)``: what it raises is the request's answer."""
    for request in requests:
        sender = request.get_response_sender()
        try:
            accept(request, sender)
        except Exception as error:
            refuse(sender, as_engine_error(error))


def _answering(sender: Any) -> Callable[[bytes | EngineError], None]:  # noqa: ANN401
    return lambda result: (
        refuse(sender, result) if isinstance(result, EngineError) else answer(sender, result)
    )


def as_engine_error(error: Exception) -> EngineError:
    """One of ours as it is; any other is a defect, which is logged."""
    if isinstance(error, EngineError):
        return error
    logger.error("a request failed", exc_info=error)
    return EngineError(f"{type(error).__name__}: {error}")


def answer(sender: Any, body: bytes) -> None:  # noqa: ANN401
    tensor = pb_utils.Tensor("text_output", np.array([body], dtype=np.object_))
    sender.send(
        pb_utils.InferenceResponse([tensor]), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    )


def refuse(sender: Any, error: EngineError) -> None:  # noqa: ANN401
    sender.send(
        pb_utils.InferenceResponse(error=triton_error(error)),
        flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    )


def tensor_config(spec: TensorSpec) -> dict[str, Any]:
    datatype = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": datatype, "dims": list(spec.dims)}
