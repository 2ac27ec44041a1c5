"""A request's prompt: its token ids, made once for equal requests, and checked before the work."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

from backends.contract import names
from backends.contract.errors import ContextExceeded, InvalidField
from backends.contract.requests import GenerationRequest
from backends.text.encoding import TooManyTokens
from backends.tokenizer import Tokenizer

MAX_KEPT_TOKENS = 1 << 20
"""Of prompts that were read last: several answers to one are asked for at once."""

MAX_TOKENIZED_CONTEXTS = 4
"""A text that is only tokenised may be longer than the context, but no more often than this."""

Check: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's token ids. ``in_reasoning``: it ends inside of a block of reasoning."""

    ids: list[int]
    in_reasoning: bool = False


class _TooManyCharacters(Exception):
    """A text is too long. ``rate``: characters that a token stands for at most."""

    def __init__(self, count: int, rate: int) -> None:
        super().__init__(count)
        self.count = count
        self.rate = rate


class PromptReader:
    """A reader of requests' prompts, for any thread. Its methods raise `InvalidField`.

    ``check`` is called between two steps, and may raise to end them.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        self.tokenize_length = MAX_TOKENIZED_CONTEXTS * context_length
        self._vocab_size = vocab_size
        self._kept: OrderedDict[Hashable, Prompt] = OrderedDict()
        self._kept_tokens = 0
        self._lock = threading.Lock()

    def read(self, key: Hashable, request: GenerationRequest, check: Check) -> Prompt:
        """Return a prompt that fits into the context. Raises `ContextExceeded`.

        ``key`` is equal for requests with equal prompts.
        """
        if (known := self._known(key)) is not None:
            return known
        context, field = self._context_length, request.prompt_input
        try:
            prompt = self._read(request, context - 1, check)
        except TooManyTokens as error:
            raise ContextExceeded.of_prompt(field, context, f"{error.count} tokens") from None
        except _TooManyCharacters as error:
            raise ContextExceeded.of_characters(
                field, context, error.count, context * error.rate
            ) from None
        self._keep(key, prompt)
        return prompt

    def read_to_tokenize(self, request: GenerationRequest, check: Check) -> Prompt:
        """Return a prompt that need not fit into the context."""
        most, field = self.tokenize_length, request.prompt_input
        try:
            return self._read(request, most, check)
        except TooManyTokens as error:
            problem = f"must have at most {most} tokens, not {error.count}"
        except _TooManyCharacters as error:
            problem = f"must have at most {most * error.rate} characters, not {error.count}"
        raise InvalidField(field, problem)

    def _read(self, request: GenerationRequest, most: int, check: Check) -> Prompt:
        """Return a prompt of at most ``most`` tokens; refuse a text that is too long unread."""
        if request.prompt_token_ids is not None:
            ids = self._checked_ids(request.prompt_token_ids, most)
            return Prompt(ids, request.in_reasoning)
        special = request.add_special_tokens
        if request.messages is None:
            text = request.prompt or ""
            self._check_length(len(text), most)
            ids = self._tokenizer.encode(text, add_special_tokens=special is not False, most=most)
            return Prompt(ids)
        chat = self._tokenizer.render_chat(request.messages, request.tools, request.chat_options)
        check()
        self._check_length(chat.length, most)
        ids = self._tokenizer.encode_rendered(chat, add_special_tokens=bool(special), most=most)
        return Prompt(ids, chat.in_reasoning)

    def _checked_ids(self, ids: tuple[int, ...], most: int) -> list[int]:
        if len(ids) > most:
            raise TooManyTokens(len(ids))
        if any(not 0 <= id_ < self._vocab_size for id_ in ids):
            raise InvalidField(
                names.PROMPT_TOKEN_IDS, f"must hold token ids from 0 to {self._vocab_size - 1}"
            )
        return list(ids)

    def _check_length(self, characters: int, most: int) -> None:
        rate = self._tokenizer.characters_per_token
        if rate is not None and characters > (most + 1) * rate:
            raise _TooManyCharacters(characters, rate)

    def _known(self, key: Hashable) -> Prompt | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: Hashable, prompt: Prompt) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = prompt
                self._kept_tokens += len(prompt.ids)
            while self._kept_tokens > MAX_KEPT_TOKENS:
                _, dropped = self._kept.popitem(last=False)
                self._kept_tokens -= len(dropped.ids)
