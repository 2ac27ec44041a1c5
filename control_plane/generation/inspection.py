"""Questions to a language model that generate no answer, or none that is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from control_plane.generation.context_limit import (
    check_attributable,
    check_fits,
    check_tokenizable,
)
from control_plane.inference.client import ModelClient, ask
from control_plane.inference.prompts import Prompt, TokenIds
from control_plane.inference.requests import (
    Attribute,
    DescribeTokenizer,
    Detokenize,
    Profile,
    Tokenize,
)
from control_plane.inference.responses import Tokens
from control_plane.models.catalog import Model


class InspectionService:
    """The service behind ``/tokenize``, ``/detokenize``, ``/tokenizer_info``, ``/attributions``
    and ``/profile``. Every method raises `TriadError`."""

    def __init__(self, client: ModelClient, *, timeout: float) -> None:
        """Create the service. ``timeout``: seconds that one question may take."""
        self._client = client
        self._timeout = timeout

    async def tokenize(
        self,
        model: Model,
        request_id: str,
        prompt: Prompt,
        *,
        must_fit: bool = False,
        offsets: bool = False,
    ) -> Tokens:
        """Return the tokens that the model makes of a prompt. ``must_fit``: an answer is to be
        generated, so the prompt must not be longer than the context."""
        (check_fits if must_fit else check_tokenizable)(model, prompt)
        request = Tokenize(model.name, request_id, prompt, offsets=offsets)
        return await ask(self._client, request, timeout=self._timeout)

    async def detokenize(self, model: Model, request_id: str, ids: Sequence[int]) -> str:
        """Return the text of token ids, with that of special tokens."""
        check_tokenizable(model, TokenIds(ids))
        request = Detokenize(model.name, request_id, ids)
        return await ask(self._client, request, timeout=self._timeout)

    async def tokenizer_info(self, model: Model, request_id: str) -> dict[str, Any]:
        """Return what ``tokenizer_config.json`` says of the model's tokenizer."""
        request = DescribeTokenizer(model.name, request_id)
        return await ask(self._client, request, timeout=self._timeout)

    async def attribute(
        self, model: Model, request_id: str, prompt: str, target: str | None
    ) -> dict[str, Any]:
        """Return how much each token of ``prompt`` adds to the likelihood of ``target``, or of
        what the model answers where that is None."""
        check_attributable(model, prompt, target)
        request = Attribute(model.name, request_id, prompt, target)
        return await ask(self._client, request, timeout=self._timeout)

    async def profile(
        self, model: Model, request_id: str, prompt: str, sampling: Mapping[str, Any]
    ) -> bytes:
        """Return the profiler's trace of a generation, gzipped JSON."""
        request = Profile(model.name, request_id, prompt, sampling)
        return await ask(self._client, request, timeout=self._timeout)
