"""The front of an engine: a request's tensors become work for it.

It is called in threads of a pool, and looks between its steps whether anybody still waits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from backends.contract import names
from backends.contract.errors import ContextExceeded, InvalidField
from backends.contract.kinds import RequestKind
from backends.contract.requests import GenerationRequest, decode_request
from backends.contract.tensors import Inputs, text
from backends.engine import Engine
from backends.serving.attribution import AttributionRequest
from backends.serving.generation import Generation
from backends.serving.prompt import Prompt, PromptReader
from backends.serving.responder import Call
from backends.text.offsets import token_offsets
from backends.tokenizer import Tokenizer

_PROMPT_INPUTS = (
    *(names.TEXT_INPUT, names.MESSAGES, names.PROMPT_TOKEN_IDS, names.IN_REASONING, names.TOOLS),
    *(names.CHAT_TEMPLATE_OPTIONS, names.ADD_SPECIAL_TOKENS),
)


class RequestReader:
    """A reader of one model's requests."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, enable_streaming: bool) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._enable_streaming = enable_streaming
        self._prompts = PromptReader(tokenizer, engine.context_length, engine.vocab_size)
        self.tokenize_length = self._prompts.tokenize_length

    def read(self, kind: RequestKind, call: Call, inputs: Inputs, parameters: str) -> None:
        """Answer the call, or submit it to the engine.

        Raises `EngineError`; `Cancelled` where the call was left meanwhile.

        ``kind``: one of those in `READERS`. ``parameters``: as `decode_request` takes them.
        """
        READERS[kind](self, call, inputs, parameters)

    def _generate(self, call: Call, inputs: Inputs, parameters: str) -> None:
        request, prompt = self._read_generation(call, inputs, parameters)
        assert isinstance(call, Generation)
        submitted = call.begin(request, prompt)
        self._engine.submit(submitted)
        submitted.cancelled |= call.left

    def _profile(self, call: Call, inputs: Inputs, parameters: str) -> None:
        request, prompt = self._read_generation(call, inputs, parameters)
        self._engine.trace(prompt.ids, request.sampling, call.settle)

    def _read_generation(
        self, call: Call, inputs: Inputs, parameters: str
    ) -> tuple[GenerationRequest, Prompt]:
        request = self._decode(call, inputs, parameters)
        self._check_parameters(request)
        prompt = self._read_prompt(call, inputs, request)
        call.raise_if_left()
        return request, prompt

    def _attribute(self, call: Call, inputs: Inputs, parameters: str) -> None:
        attribution = AttributionRequest(self._engine, self._tokenizer, call)
        attribution.start(text(inputs, names.TEXT_INPUT), text(inputs, names.TARGET))

    def _tokenizer_info(self, call: Call, inputs: Inputs, parameters: str) -> None:
        info = self._tokenizer.info() | {"model_max_length": self._engine.context_length}
        call.answer_text(json.dumps(info).encode())

    def _detokenize(self, call: Call, inputs: Inputs, parameters: str) -> None:
        request = self._decode(call, inputs, parameters)
        ids = self._prompts.read_to_tokenize(request, call.raise_if_left).ids
        call.answer_text(self._tokenizer.decode(ids, skip_special_tokens=False).encode())

    def _tokenize(self, call: Call, inputs: Inputs, parameters: str) -> None:
        request = self._decode(call, inputs, parameters)
        if names.PROMPT_TOKEN_IDS not in request.returns:
            ids = self._prompts.read_to_tokenize(request, call.raise_if_left).ids
            return call.answer_text(self._tokenized(request, ids))
        prompt = self._read_prompt(call, inputs, request)
        call.answer(
            [
                (names.PROMPT_TOKEN_IDS, np.array(prompt.ids, np.int32)),
                (names.IN_REASONING, np.array([prompt.in_reasoning])),
            ]
        )

    def _decode(self, call: Call, inputs: Inputs, parameters: str) -> GenerationRequest:
        request = decode_request(inputs, parameters)
        call.raise_if_left()
        return request

    def _read_prompt(self, call: Call, inputs: Inputs, request: GenerationRequest) -> Prompt:
        prompt = self._prompts.read(_key(inputs), request, call.raise_if_left)
        self._check_fits(request, prompt.ids)
        return prompt

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
        """Return the offsets in the text that was given, or else in that of the ids."""
        if request.prompt is None:
            return token_offsets(self._tokenizer, ids)
        special = request.add_special_tokens is not False
        return self._tokenizer.text_offsets(request.prompt, add_special_tokens=special)

    def _check_parameters(self, request: GenerationRequest) -> None:
        """Raise `InvalidField` for what is wrong whatever the prompt is."""
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


Read: TypeAlias = Callable[[RequestReader, Call, Inputs, str], None]

READERS: Mapping[RequestKind, Read] = {
    RequestKind.GENERATE: RequestReader._generate,
    RequestKind.TOKENIZE: RequestReader._tokenize,
    RequestKind.DETOKENIZE: RequestReader._detokenize,
    RequestKind.TOKENIZER_INFO: RequestReader._tokenizer_info,
    RequestKind.ATTRIBUTIONS: RequestReader._attribute,
    RequestKind.PROFILE: RequestReader._profile,
}
"""The kinds of requests that are read in a thread of the pool."""


def _key(inputs: Inputs) -> bytes:
    """Return a key that is equal where prompts are."""
    digest = hashlib.sha256()
    for name in _PROMPT_INPUTS:
        if (array := inputs.get(name)) is not None:
            parts = array.reshape(-1).tolist() if array.dtype == np.object_ else [array.tobytes()]
            for part in parts:
                digest.update(f"{name} {len(part)} ".encode() + part)
    return digest.digest()
