"""Starts generations, and knows all that are running."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import orjson
from tritonclient.grpc.service_pb2 import ModelInferRequest

from backends.contract import names
from control_plane.cache.response_cache import ResponseCache
from control_plane.errors import (
    ModelNotReady,
    ShuttingDown,
    TriadError,
    Unavailable,
)
from control_plane.generation.context_limit import check_fits, check_tokenizable
from control_plane.generation.generation import Generation
from control_plane.models.catalog import Model, Models
from control_plane.observability.metrics import Metrics
from control_plane.observability.stats import Stats
from control_plane.triton import codec
from control_plane.triton.client import InferStream, TritonClient, ask, infer_once

PROMPT_TOKENS = names.NUM_INPUT_TOKENS
GRACE_SECONDS = 10.0
"""What a request that took too long gets for ending at its model, before Triton cuts it off."""

CacheUse: TypeAlias = Literal["read and write", "write", "none"]

_IDENTITY = ("backend", "type", "parameters", "dtype", "context_length")
"""Facts of a model that change when another one takes its name."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate. ``returns``: names of the contract's outputs that `Delta` is to have.

    ``bill`` gets, once, how many tokens were computed: of the answer and, with ``bills_prompt``,
    of the prompt; also of what nobody read because the client had left.

    ``caller``: whose request it is, as far as cached answers are concerned.
    """

    prompt: codec.Prompt
    sampling: Mapping[str, Any]
    request_id: str
    model: str | None = None  # None: the default model
    stream: bool = False
    returns: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    bill: Callable[[int], None] | None = None
    bills_prompt: bool = True
    cache: CacheUse = "read and write"
    caller: str = ""

    @property
    def outputs(self) -> Sequence[str]:
        """Those of ``returns``, and what billing needs."""
        if self.bill is None or not self.bills_prompt or PROMPT_TOKENS in self.returns:
            return self.returns
        return [*self.returns, PROMPT_TOKENS]

    @property
    def is_fixed(self) -> bool:
        """Whether chance has no part in the answer."""
        sampling = self.sampling
        greedy = sampling.get("temperature") == 0 or sampling.get("top_p") == 0
        return greedy or sampling.get("seed") is not None


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt's token ids, the text of each, and its name in the vocabulary, such as ``Ġis``.

    ``offsets``: where each begins in the prompt's text, if that was asked for.
    """

    ids: list[int]
    texts: list[str]
    names: list[str]
    offsets: list[int] = field(default_factory=list)


class GenerationService:
    """The service that ``/generate``, ``/chat``, ``/v1`` and the Python API call."""

    def __init__(
        self,
        client: TritonClient,
        catalog: Models,
        metrics: Metrics,
        stats: Stats,
        *,
        timeout: float,
        cache: ResponseCache | None = None,
    ) -> None:
        self._client = client
        self._cache = cache
        self._catalog = catalog
        self._metrics = metrics
        self._stats = stats
        self._timeout = timeout
        self._running: set[Generation] = set()
        self._settling: set[asyncio.Future[None]] = set()
        self.draining = False

    @property
    def running(self) -> int:
        return len(self._running)

    def model(self, name: str | None) -> Model:
        """The language model of that name, or the default one. Raises `TriadError`, which counts:
        nothing is generated then."""
        try:
            if self.draining:
                raise ShuttingDown("the server is shutting down")
            return self._catalog.language_model(name)
        except TriadError as error:
            self._metrics.requests.labels("", error.type).inc()
            raise

    async def start(self, request: GenerationRequest) -> Generation:
        """A generation whose first response is there. The caller closes it.

        Raises `TriadError`: until the first response, nothing has been promised to the client.
        """
        model = self.model(request.model)
        generation = Generation(
            request.request_id,
            model,
            self._metrics,
            self._stats,
            partial(self._ended, request),
            timeout=self._timeout,
            stream=request.stream,
            metadata=request.metadata,
        )
        self._running.add(generation)
        try:
            check_fits(model, request.prompt)
            generation.attach(self._infer(model, request))
            await generation.pull_first()
        except BaseException as error:
            generation.close(error)
            raise
        return generation

    def _infer(self, model: Model, request: GenerationRequest) -> InferStream:
        id_ = codec.unique_id(request.request_id)
        message = _message(model, request, id_, stream=request.stream)
        begin = partial(self._client.infer, message, timeout=self._timeout + GRACE_SECONDS)
        cache = self._cache
        if cache is None or request.cache == "none" or not (cache.sampled or request.is_fixed):
            return begin()
        facts = json.dumps([getattr(model.facts, name) for name in _IDENTITY])
        key = cache.key(_message(model, request, "", stream=True), facts, request.caller)
        return cache.stream(key, begin, reads=request.cache != "write")

    async def encode(self, request: GenerationRequest) -> codec.TokenIds:
        """The request's prompt as token ids, which fit into the context. Raises `TriadError`."""
        model = self.model(request.model)
        check_fits(model, request.prompt)
        id_ = codec.unique_id(request.request_id)
        message = codec.encode_request(model.name, id_, request.prompt)
        encoded = codec.delta(await infer_once(self._client, message, timeout=self._timeout))
        return codec.TokenIds(encoded.prompt_token_ids, encoded.in_reasoning)

    async def tokenize(
        self,
        model: Model,
        request_id: str,
        prompt: codec.Prompt,
        *,
        must_fit: bool = False,
        offsets: bool = False,
    ) -> Tokens:
        """What the model makes of a prompt. ``must_fit``: it is to be generated from, so it must
        not be longer than the context. Raises `TriadError`."""
        (check_fits if must_fit else check_tokenizable)(model, prompt)
        id_ = codec.unique_id(request_id)
        message = codec.tokenize_request(model.name, id_, prompt, offsets=offsets)
        answer = orjson.loads(await ask(self._client, message, timeout=self._timeout))
        return Tokens(
            answer["token_ids"], answer["texts"], answer["tokens"], answer.get("text_offsets", [])
        )

    async def tokenizer_info(self, model: Model, request_id: str) -> dict[str, Any]:
        """What ``tokenizer_config.json`` says of the model's tokenizer. Raises `TriadError`."""
        message = codec.tokenizer_info_request(model.name, codec.unique_id(request_id))
        info: dict[str, Any] = orjson.loads(await ask(self._client, message, timeout=self._timeout))
        return info

    async def detokenize(self, model: Model, request_id: str, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens too. Raises `TriadError`."""
        check_tokenizable(model, codec.TokenIds(ids))
        message = codec.detokenize_request(model.name, codec.unique_id(request_id), ids)
        return (await ask(self._client, message, timeout=self._timeout)).decode()

    def _ended(
        self, request: GenerationRequest, generation: Generation, error: BaseException | None
    ) -> None:
        self._running.discard(generation)
        if request.bill is not None:
            self._bill(request, generation)
        if isinstance(error, Unavailable):
            self._catalog.doubt()

    def _bill(self, request: GenerationRequest, generation: Generation) -> None:
        """At once for an answer that has ended, else when the engine has told what it took."""

        def bill(_: object = None) -> None:
            assert request.bill is not None
            request.bill(generation.tokens + request.bills_prompt * generation.prompt_tokens)

        if generation.finish_reason is not None:
            return bill()
        settling = asyncio.ensure_future(generation.settle())
        self._settling.add(settling)
        settling.add_done_callback(bill)
        settling.add_done_callback(self._settling.discard)

    def abort_model(self, model: Model) -> None:
        """End what runs on a model that has died: its streams would never end by themselves."""
        error = ModelNotReady(f"model: `{model.served_name}` died while it was generating")
        for generation in list(self._running):
            if generation.model is model:
                generation.abort(error)

    def abort_all(self, error: TriadError) -> None:
        for generation in list(self._running):
            generation.abort(error)


def _message(
    model: Model, request: GenerationRequest, id_: str, *, stream: bool
) -> ModelInferRequest:
    return codec.generation_request(
        *(model.name, id_, request.prompt, request.sampling),
        stream=stream,
        returns=request.outputs,
    )
