"""What stands in front of an engine: a request's tensors become work for it.

It is called in threads of a pool, and looks between its steps whether anybody still waits.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from backends.contract import names
from backends.contract.errors import ContextExceeded, InvalidField
from backends.contract.requests import GenerationRequest, decode_request
from backends.contract.tensors import Inputs, flag, text
from backends.engine import Engine
from backends.serving.attribution import AttributionRequest
from backends.serving.generation import Generation
from backends.serving.prompt import PromptReader
from backends.serving.responder import Call
from backends.text.offsets import token_offsets
from backends.text.tokenizer import Tokenizer

ONE_ANSWER = (
    names.ATTRIBUTIONS,
    names.TOKENIZE,
    names.DETOKENIZE,
    names.TOKENIZER_INFO,
    names.PROFILE,
)
"""Inputs that ask for something else than a generation."""

_PROMPT_INPUTS = (
    *(names.TEXT_INPUT, names.MESSAGES, names.PROMPT_TOKEN_IDS, names.IN_REASONING, names.TOOLS),
    *(names.CHAT_TEMPLATE_OPTIONS, names.ADD_SPECIAL_TOKENS),
)


class RequestReader:
    def __init__(self, engine: Engine, tokenizer: Tokenizer, enable_streaming: bool) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._enable_streaming = enable_streaming
        self._prompts = PromptReader(tokenizer, engine.context_length, engine.vocab_size)
        self.tokenize_length = self._prompts.tokenize_length

    def read(self, call: Call, inputs: Inputs, parameters: str) -> None:
        """Answers the call, or submits it to the engine. Raises `EngineError`; `Cancelled` where
        the call was left meanwhile. ``parameters``: as `decode_request` takes them."""
        if flag(inputs, names.ATTRIBUTIONS):
            attribution = AttributionRequest(self._engine, self._tokenizer, call)
            return attribution.start(text(inputs, names.TEXT_INPUT), text(inputs, names.TARGET))
        if flag(inputs, names.TOKENIZER_INFO):
            info = self._tokenizer.info() | {"model_max_length": self._engine.context_length}
            return call.answer_text(json.dumps(info).encode())
        request = decode_request(inputs, parameters)
        call.raise_if_left()
        if flag(inputs, names.TOKENIZE):
            return self._tokenize(call, inputs, request)
        if flag(inputs, names.DETOKENIZE):
            ids = self._prompts.read_to_tokenize(request, call.raise_if_left).ids
            text_ = self._tokenizer.decode(ids, skip_special_tokens=False)
            return call.answer_text(text_.encode())
        self._check_parameters(request)
        prompt = self._prompts.read(_key(inputs), request, call.raise_if_left)
        self._check_fits(request, prompt.ids)
        call.raise_if_left()
        if flag(inputs, names.PROFILE):
            return self._engine.trace(prompt.ids, request.sampling, call.settle)
        assert isinstance(call, Generation)
        submitted = call.begin(request, prompt)
        self._engine.submit(submitted)
        submitted.cancelled |= call.left

    def _tokenize(self, call: Call, inputs: Inputs, request: GenerationRequest) -> None:
        if names.PROMPT_TOKEN_IDS not in request.returns:
            ids = self._prompts.read_to_tokenize(request, call.raise_if_left).ids
            return call.answer_text(self._tokenized(request, ids))
        prompt = self._prompts.read(_key(inputs), request, call.raise_if_left)
        self._check_fits(request, prompt.ids)
        call.answer(
            [
                (names.PROMPT_TOKEN_IDS, np.array(prompt.ids, np.int32)),
                (names.IN_REASONING, np.array([prompt.in_reasoning])),
            ]
        )

    def _tokenized(self, request: GenerationRequest, ids: list[int]) -> bytes:
        body = {
            "token_ids": ids,
            "tokens": [self._tokenizer.name(id_) for id_ in ids],
            "texts": [self._tokenizer.token(id_)[0] for id_ in ids],
        }
        if names.TEXT_OFFSETS in request.returns:
            body["text_offsets"] = self._prompt_offsets(request, ids)
        return json.dumps(body).encode()

    def _prompt_offsets(self, request: GenerationRequest, ids: list[int]) -> list[int]:
        """In the text that was given, or else in that of the ids with their special tokens."""
        if request.prompt is None:
            return token_offsets(self._tokenizer, ids)
        special = request.add_special_tokens is not False
        return self._tokenizer.text_offsets(request.prompt, add_special_tokens=special)

    def _check_parameters(self, request: GenerationRequest) -> None:
        """What needs no look at the prompt."""
        sampling, context = request.sampling, self._engine.context_length
        if request.stream and not self._enable_streaming:
            raise InvalidField(names.STREAM, "must be false: this model's answers come whole")
        if sampling.max_tokens > context:
            raise ContextExceeded(
                "max_tokens",
                context,
                f"you requested {sampling.max_tokens} tokens for the answer: it must be from 1 to "
                f"{context}.",
            )
        adapter, adapters = sampling.lora_name, self._engine.adapters
        if adapter is not None and adapter not in adapters:
            raise InvalidField(
                "lora_name",
                f"is not an adapter of this model; it has {', '.join(adapters) or 'none'}",
            )
        vocabulary = self._engine.vocab_size
        for name, ids in (
            ("logit_bias", [id_ for id_, _ in sampling.logit_bias]),
            ("allowed_token_ids", sampling.allowed_token_ids),
        ):
            if ids and max(ids) >= vocabulary:
                raise InvalidField(name, f"must have token ids from 0 to {vocabulary - 1}")

    def _check_fits(self, request: GenerationRequest, prompt_ids: list[int]) -> None:
        if not prompt_ids:
            raise InvalidField(request.prompt_input, "must have at least one token")
        left = self._engine.context_length - len(prompt_ids)
        resumed, left = request.resume_token_ids, min(request.sampling.max_tokens, left)
        vocabulary = self._engine.vocab_size
        if len(resumed) >= left or any(not 0 <= id_ < vocabulary for id_ in resumed):
            raise InvalidField(
                names.RESUME_TOKEN_IDS,
                f"must hold fewer than {left} ids, each from 0 to {vocabulary - 1}",
            )


def _key(inputs: Inputs) -> bytes:
    """Equal where prompts are."""
    digest = hashlib.sha256()
    for name in _PROMPT_INPUTS:
        if (array := inputs.get(name)) is not None:
            parts = array.reshape(-1).tolist() if array.dtype == np.object_ else [array.tobytes()]
            for part in parts:
                digest.update(f"{name} {len(part)} ".encode() + part)
    return digest.digest()
