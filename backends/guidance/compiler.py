"""Grammars for one model's tokens, made beside the engine's thread once they have been tried.

What a grammar may cost is bounded by the sizes of what is written in it, by llguidance's own
counters, and where these are not enough by a trial in a process of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from backends.contract.errors import EngineError, InvalidField
from backends.contract.structured import StructuredOutput
from backends.engine import EngineRequest
from backends.guidance.checked import CheckedGrammars
from backends.guidance.grammar import short
from backends.guidance.guide import Guide
from backends.guidance.json_schema import OPTIONS
from backends.guidance.limits import COUNTERS, TRIAL
from backends.guidance.recent import Recent
from backends.guidance.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

CACHED = 64
"""Grammars that are kept: those used last."""


class GrammarCompiler:
    """Makes guides; for any thread."""

    def __init__(
        self,
        tokenizer_json: Callable[[], str],
        vocab_size: int,
        eos_token_ids: Iterable[int],
        context_length: int = 1 << 30,
    ) -> None:
        """``tokenizer_json``: gives the tokenizer as the ``tokenizers`` library writes it, and
        raises ValueError where it cannot. It is called in a thread of the compiler's, at once.

        ``vocab_size``: how many logits the model gives; ids that the tokenizer lacks are never
        allowed. ``context_length``: in tokens.
        """
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._context_length = context_length
        # Each with a lock: what is copied must not be copied by another thread meanwhile.
        self._cache: Recent[StructuredOutput, tuple[LLMatcher, threading.Lock]] = Recent(CACHED)
        self._tokenizer: LLTokenizer | None = None
        # llguidance makes many errors that it handles itself. With stack traces compiling takes
        # four to eight times as long.
        os.environ["RUST_LIB_BACKTRACE"] = "0"
        self._checked = CheckedGrammars(self._setup)

    def _setup(self) -> dict[str, Any]:
        tokenizer_json = self._tokenizer_json()
        self._load_tokenizer(tokenizer_json)
        return {
            "tokenizer_json": tokenizer_json,
            "vocab_size": self._vocab_size,
            "eos_token_ids": self._eos_token_ids,
            "context_length": self._context_length,
            "options": dict(OPTIONS),
            "limits": COUNTERS,
            "forces": True,
            "compiles": True,
            **TRIAL,
        }

    def prepare(self, request: EngineRequest) -> Future[Guide]:
        """The guide of a request that is ``guided``, at the end of its ``output_ids``.

        The future may be done already. It fails with `InvalidField`; or with `Cancelled`, if the
        request was before its turn. Raises `Overloaded`.
        """
        guided = request.sampling.guided
        assert guided is not None
        if (matcher := self._cached(guided)) is not None:
            future: Future[Guide] = Future()
            _settle(future, lambda: _guide(matcher, guided, request))
            return future
        return self._checked.prepare(
            request, partial(self._made, guided, request), partial(self._make, guided, request)
        )

    def _made(self, guided: StructuredOutput, request: EngineRequest) -> Guide | None:
        matcher = self._cached(guided)
        return None if matcher is None else _guide(matcher, guided, request)

    def _make(self, guided: StructuredOutput, request: EngineRequest, grammar: str) -> Guide:
        matcher = self._keep(guided, self._compile(guided, grammar))
        return _guide(matcher, guided, request)

    def _cached(self, guided: StructuredOutput) -> LLMatcher | None:
        """A copy: matchers are changed by what they match."""
        if (kept := self._cache.get(guided)) is None:
            return None
        matcher, lock = kept
        with lock:
            return matcher.deep_copy()

    def _keep(self, guided: StructuredOutput, matcher: LLMatcher) -> LLMatcher:
        copy = matcher.deep_copy()
        self._cache.put(guided, (matcher, threading.Lock()))
        return copy

    def _compile(self, guided: StructuredOutput, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**COUNTERS)
        assert self._tokenizer is not None  # what tries grammars has had it first
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise InvalidField(guided.given_as, f"cannot be kept to: {short(matcher.get_error())}")
        return matcher

    def _load_tokenizer(self, tokenizer_json: str) -> None:
        """Once, before there are requests to hold up."""
        from llguidance import LLTokenizer

        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(
                Vocabulary.of(tokenizer_json).tokenizer_json,
                n_vocab=self._vocab_size,
                eos_token=self._eos_token_ids or None,
            )

    def close(self) -> None:
        self._checked.close()


def _guide(matcher: LLMatcher, guided: StructuredOutput, request: EngineRequest) -> Guide:
    guide = Guide(matcher, guided.given_as)
    guide.resume(request.output_ids)
    return guide


def _settle(future: Future[Guide], make: Callable[[], Guide]) -> None:
    try:
        future.set_result(make())
    except EngineError as error:
        future.set_exception(error)
