"""The request kind ``attributions``: which prompt tokens an answer hangs on.

The answer is one response, ``text_output`` holding JSON::

    {"prompt_tokens": [{"token", "token_id", "gradient_x_input", "gradient_norm"}, ...],
     "target": str, "target_tokens": int, "loss": float}

``loss`` is the mean negative log likelihood of the target's tokens, in nats.
"""

from __future__ import annotations

import json

from backends.contract import names
from backends.contract.errors import EngineError, InvalidField
from backends.contract.responses import FinishReason
from backends.contract.sampling import SamplingParameters
from backends.engine import Attribution, Engine, EngineRequest, Token
from backends.serving.responder import Call
from backends.tokenizer import Tokenizer

MAX_GENERATED_TOKENS = 64
"""Of a target that is generated."""


class AttributionRequest:
    """A request, and its own engine sink: a target that is not given is generated first."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, call: Call) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._call = call
        self._prompt_ids: list[int] = []
        self._target_ids: list[int] = []
        self._limit = min(engine.attribution_length, engine.context_length - 1)

    def start(self, prompt: str | None, target: str | None) -> None:
        """Begin; the call is answered later if this raises nothing.

        Raises `InvalidField`, `Overloaded`, and `Cancelled` if nobody waits for the answer.
        """
        if not prompt:
            raise InvalidField(names.TEXT_INPUT, "must be given for attributions, and not be empty")
        if target == "":
            raise InvalidField(names.TARGET, "must not be empty")
        if not self._limit:
            raise InvalidField(
                names.TEXT_INPUT, "cannot have attributions: this engine has no gradients"
            )
        self._check_length(names.TEXT_INPUT, prompt)
        self._check_length(names.TARGET, target or "")
        self._prompt_ids = self._tokenizer.encode(prompt)
        if not 0 < len(self._prompt_ids) < self._limit:
            raise InvalidField(
                names.TEXT_INPUT,
                f"must have from 1 to {self._limit - 1} tokens for attributions, "
                f"not {len(self._prompt_ids)}",
            )
        self._call.raise_if_left()
        left = self._limit - len(self._prompt_ids)
        if target is None:
            sampling = SamplingParameters(max_tokens=min(MAX_GENERATED_TOKENS, left), temperature=0)
            self._generation = EngineRequest(self._prompt_ids, sampling, self)
            self._engine.submit(self._generation)
            return
        self._target_ids = self._tokenizer.encode_continuation(target)
        if len(self._target_ids) > left:
            raise InvalidField(names.TARGET, f"must have at most {left} tokens")
        self._call.raise_if_left()
        self._engine.attribute(self._prompt_ids, self._target_ids, self._done)

    def _check_length(self, field: str, text: str) -> None:
        """Raise `InvalidField` for a text that has too many tokens for its length alone."""
        rate = self._tokenizer.characters_per_token
        if rate is not None and len(text) > self._limit * rate:
            raise InvalidField(
                field,
                f"must have fewer than {self._limit} tokens for attributions; its {len(text)} "
                f"characters are more",
            )

    def put(self, token: Token, finish_reason: FinishReason | None) -> None:
        if finish_reason != "stop" or not self._target_ids:  # the end-of-sequence token is no text
            self._target_ids.append(token.id)
        if self._call.left:
            self._generation.cancelled = True
        elif finish_reason is not None:
            try:
                self._engine.attribute(self._prompt_ids, self._target_ids, self._done)
            except EngineError as error:
                self._call.fail(error)

    def fail(self, error: EngineError) -> None:
        self._call.fail(error)

    def _done(self, result: Attribution | EngineError) -> None:
        if isinstance(result, EngineError):
            return self._call.fail(result)
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
        self._call.answer_text(json.dumps(document).encode())
