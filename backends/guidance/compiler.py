"""Grammars for one model's tokens, compiled outside of the engine's thread after a trial.

The cost of a grammar is bounded by limits on its text, by llguidance's own counters and, where
these are not enough, by a trial in a process of its own.
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
from backends.guidance.lru_cache import LRUCache
from backends.guidance.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_CACHED = 64
"""The number of compiled grammars that are kept, least recently used ones removed first."""


class GrammarCompiler:
    """A compiler of guides for one model. Its methods may be called in any thread."""

    def __init__(
        self,
        tokenizer_json: Callable[[], str],
        vocab_size: int,
        eos_token_ids: Iterable[int],
        context_length: int = 1 << 30,
    ) -> None:
        """Start to load the tokenizer.

        ``tokenizer_json``: returns the tokenizer as the ``tokenizers`` library writes it, or raises
        ValueError. It is called at once, in a thread of the compiler. ``vocab_size``: the number of
        logits of the model; ids that the tokenizer lacks are never allowed. ``context_length``: the
        model's context in tokens.
        """
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._context_length = context_length
        # Each matcher has a lock, because two threads must not copy it at the same time.
        self._cache: LRUCache[StructuredOutput, tuple[LLMatcher, threading.Lock]] = LRUCache(
            MAX_CACHED
        )
        self._tokenizer: LLTokenizer | None = None
        # llguidance creates many errors that it handles itself. With stack traces, compiling takes
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
        """Return a future of the guide of a request that is ``guided``, advanced to the end of the
        request's ``output_ids``.

        The future may be done already. It fails with `InvalidField`, with `Overloaded`, or with
        `Cancelled` if the request was cancelled before its turn. Raises `Overloaded`.
        """
        guided = request.sampling.guided
        assert guided is not None
        if (matcher := self._cached(guided)) is not None:
            future: Future[Guide] = Future()
            _settle(future, lambda: _guide(matcher, guided, request))
            return future
        return self._checked.prepare(
            request, partial(self._find, guided, request), partial(self._build, guided, request)
        )

    def _find(self, guided: StructuredOutput, request: EngineRequest) -> Guide | None:
        matcher = self._cached(guided)
        return None if matcher is None else _guide(matcher, guided, request)

    def _build(self, guided: StructuredOutput, request: EngineRequest, grammar: str) -> Guide:
        matcher = self._keep(guided, self._compile(guided, grammar))
        return _guide(matcher, guided, request)

    def _cached(self, guided: StructuredOutput) -> LLMatcher | None:
        """Return a copy of the cached matcher, or None: matchers are changed by what they match."""
        if (entry := self._cache.get(guided)) is None:
            return None
        matcher, lock = entry
        with lock:
            return matcher.deep_copy()

    def _keep(self, guided: StructuredOutput, matcher: LLMatcher) -> LLMatcher:
        copy = matcher.deep_copy()
        self._cache.put(guided, (matcher, threading.Lock()))
        return copy

    def _compile(self, guided: StructuredOutput, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**COUNTERS)
        assert self._tokenizer is not None  # The trial before this one has needed it, too.
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise InvalidField(guided.given_as, f"cannot be kept to: {short(matcher.get_error())}")
        return matcher

    def _load_tokenizer(self, tokenizer_json: str) -> None:
        """Load the tokenizer once, before there are requests that would have to wait for it."""
        from llguidance import LLTokenizer

        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(
                Vocabulary.of(tokenizer_json).tokenizer_json,
                n_vocab=self._vocab_size,
                eos_token=self._eos_token_ids or None,
            )

    def close(self) -> None:
        """End the threads and the process of the trials; requests that wait are cancelled."""
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
