"""The request kind ``attributions``: which prompt tokens an answer hangs on.

The answer is one response, ``text_output`` holding JSON::

    {"prompt_tokens": [{"token", "token_id", "gradient_x_input", "gradient_norm"}, ...],
     "target": str, "target_tokens": int, "loss": float}

``loss`` is the mean negative log likelihood of the target's tokens, in nats.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from backends.contract import FinishReason, SamplingParameters
from backends.engine import Attribution, Engine, EngineRequest, Token
from backends.errors import EngineError, InvalidField
from backends.text import Tokenizer

GENERATED_TOKENS = 64
"""A target that is generated has no more."""


class AttributionRequest:
    """One request; a target that is not given is generated first. It is its own engine sink."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, answer: Callable[[bytes | EngineError], None]
    ) -> None:
        """``answer`` is called once, from a thread of the engine's, if `start` raises nothing."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._answer = answer
        self._prompt_ids: list[int] = []
        self._target_ids: list[int] = []

    def start(self, prompt: str | None, target: str | None) -> None:
        """Raises `InvalidField`, `Overloaded`."""
        if not prompt:
            raise InvalidField("text_input", "must be given for attributions, and not be empty")
        if target == "":
            raise InvalidField("target", "must not be empty")
        self._prompt_ids = self._tokenizer.encode(prompt)
        limit = min(self._engine.attribution_length, self._engine.context_length - 1)
        if not 0 < len(self._prompt_ids) < limit:
            raise InvalidField(
                "text_input",
                f"must have from 1 to {limit - 1} tokens for attributions, "
                f"not {len(self._prompt_ids)}"
                if limit
                else "cannot have attributions: this engine has no gradients",
            )
        if target is None:
            most = min(GENERATED_TOKENS, limit - len(self._prompt_ids))
            sampling = SamplingParameters(max_tokens=most, temperature=0)
            self._engine.submit(EngineRequest(self._prompt_ids, sampling, self))
            return
        self._target_ids = self._tokenizer.encode_continuation(target)
        if len(self._prompt_ids) + len(self._target_ids) > limit:
            raise InvalidField(
                "target", f"must have at most {limit - len(self._prompt_ids)} tokens"
            )
        self._engine.attribute(self._prompt_ids, self._target_ids, self._done)

    def put(self, token: Token, finish_reason: FinishReason | None) -> None:
        if finish_reason != "stop" or not self._target_ids:  # the end-of-sequence token is no text
            self._target_ids.append(token.id)
        if finish_reason is not None:
            try:
                self._engine.attribute(self._prompt_ids, self._target_ids, self._done)
            except EngineError as error:
                self._answer(error)

    def fail(self, error: EngineError) -> None:
        self._answer(error)

    def _done(self, result: Attribution | EngineError) -> None:
        if isinstance(result, EngineError):
            return self._answer(result)
        rows = zip(self._prompt_ids, result.gradient_x_input, result.gradient_norm, strict=True)
        document = {
            "prompt_tokens": [
                {
                    "token": self._tokenizer.decode([id_]),
                    "token_id": id_,
                    "gradient_x_input": product,
                    "gradient_norm": norm,
                }
                for id_, product, norm in rows
            ],
            "target": self._tokenizer.decode(self._target_ids),
            "target_tokens": len(self._target_ids),
            "loss": result.loss,
        }
        self._answer(json.dumps(document).encode())
