"""Grammars for one model's tokens, made beside the engine's thread.

Most take a few milliseconds, the largest that a request may bring around a second. What a grammar
may cost is bounded by llguidance's own counters, not by time, so that what is refused is always
refused.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from backends.engine import EngineRequest
from backends.errors import Cancelled, EngineError, InvalidField, Overloaded
from backends.guidance.grammar import llguidance_grammar, short
from backends.guidance.guide import Guide
from backends.structured import StructuredOutput

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

logger = logging.getLogger(__name__)

LIMITS: dict[str, Any] = {
    # Half and less of llguidance's defaults: a step holds up all sequences.
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}

THREADS = 2
MAX_PENDING = 64
CACHED = 64
"""Grammars that are kept: those used last."""


class GrammarCompiler:
    """Makes guides; for any thread."""

    def __init__(
        self,
        tokenizer_json: Callable[[], str],
        vocab_size: int,
        eos_token_ids: Iterable[int],
    ) -> None:
        """``tokenizer_json``: gives the tokenizer as the ``tokenizers`` library writes it, and
        raises ValueError where it cannot. It is called in a thread of the compiler's, at once:
        what a vocabulary of 150,000 needs takes a second.

        ``vocab_size``: how many logits the model gives; ids that the tokenizer lacks are never
        allowed.
        """
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._cache: OrderedDict[StructuredOutput, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._pending = 0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="grammars")
        self._tokenizer = self._pool.submit(self._load, tokenizer_json)

    def _load(self, tokenizer_json: Callable[[], str]) -> LLTokenizer:
        try:
            from llguidance import LLTokenizer

            return LLTokenizer(
                tokenizer_json(),
                n_vocab=self._vocab_size,
                eos_token=self._eos_token_ids or None,
            )
        except (ImportError, ValueError) as error:
            logger.warning("no structured output: %s", short(error))
            raise

    def prepare(self, request: EngineRequest) -> Future[Guide]:
        """The guide of a request that is ``guided``, at the end of its ``output_ids``.

        The future may be done already. It fails with `InvalidField`; or with `Cancelled`, if the
        request was before its turn. Raises `Overloaded`.
        """
        future: Future[Guide] = Future()
        guided = request.sampling.guided
        assert guided is not None
        if (matcher := self._cached(guided)) is not None:
            _settle(future, lambda: _guide(matcher, guided, request))
            return future
        with self._lock:
            if self._pending >= MAX_PENDING:
                raise Overloaded(f"{MAX_PENDING} requests are waiting for their grammars already")
            self._pending += 1
        return self._pool.submit(self._make, guided, request)

    def _make(self, guided: StructuredOutput, request: EngineRequest) -> Guide:
        try:
            if request.cancelled:
                raise Cancelled("the request was cancelled")
            matcher = self._cached(guided) or self._keep(guided, self._compile(guided))
            return _guide(matcher, guided, request)
        finally:
            with self._lock:
                self._pending -= 1

    def _cached(self, guided: StructuredOutput) -> LLMatcher | None:
        """A copy: matchers are changed by what they match."""
        with self._lock:
            if guided not in self._cache:
                return None
            self._cache.move_to_end(guided)
            return self._cache[guided].deep_copy()

    def _keep(self, guided: StructuredOutput, matcher: LLMatcher) -> LLMatcher:
        with self._lock:
            self._cache[guided] = matcher
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
            return matcher.deep_copy()

    def _compile(self, guided: StructuredOutput) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        try:
            tokenizer = self._tokenizer.result()
        except (ImportError, ValueError) as error:
            raise InvalidField(
                guided.given_as, f"is not possible with this model: {short(error)}"
            ) from None
        grammar = llguidance_grammar(guided)
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(**LIMITS))
        matcher.compute_bitmask()
        # The first tokens show what is too large to keep to, or has no text at all.
        first = matcher.deep_copy()
        if first.consume_tokens(first.compute_ff_tokens()) and not first.is_stopped():
            first.compute_bitmask()
        if first.is_error():
            raise InvalidField(guided.given_as, f"cannot be kept to: {short(first.get_error())}")
        return matcher

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _guide(matcher: LLMatcher, guided: StructuredOutput, request: EngineRequest) -> Guide:
    guide = Guide(matcher, guided.given_as)
    guide.resume(request.output_ids)
    return guide


def _settle(future: Future[Guide], make: Callable[[], Guide]) -> None:
    try:
        future.set_result(make())
    except EngineError as error:
        future.set_exception(error)
