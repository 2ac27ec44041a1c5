"""A request's prompt: its token ids, made once for equal requests, and checked before the work."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

from backends.contract import GenerationRequest
from backends.errors import ContextExceeded, InvalidField
from backends.text import Tokenizer

KEPT_TOKENS = 1 << 20
"""Of prompts that were read last: several answers to one are asked for at once."""

TOKENIZED_CONTEXTS = 4
"""A text that is only tokenised may be longer than the context, but no more often than this."""

Check: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Prompt:
    """``in_reasoning``: it ends inside of a block of reasoning."""

    ids: list[int]
    in_reasoning: bool = False


class PromptReader:
    """Makes prompts of requests, for any thread. ``check`` is called between two steps, and may
    raise to end them. Raises `InvalidField`."""

    def __init__(self, tokenizer: Tokenizer, context_length: int, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        self.tokenize_length = TOKENIZED_CONTEXTS * context_length
        self._vocab_size = vocab_size
        self._kept: OrderedDict[Hashable, Prompt] = OrderedDict()
        self._kept_tokens = 0
        self._lock = threading.Lock()

    def read(self, key: Hashable, request: GenerationRequest, check: Check) -> Prompt:
        """``key``: equal for requests with equal prompts."""
        if (known := self._known(key)) is not None:
            return known
        prompt = self._read(request, self._context_length, check)
        self._keep(key, prompt)
        return prompt

    def read_to_tokenize(self, request: GenerationRequest, check: Check) -> Prompt:
        """As `read`, of a prompt that need not fit into the context."""
        most = self.tokenize_length
        prompt = self._read(request, most, check)
        if len(prompt.ids) > most:
            problem = f"must have at most {most} tokens, not {len(prompt.ids)}"
            raise InvalidField(request.prompt_input, problem)
        return prompt

    def _read(self, request: GenerationRequest, most: int, check: Check) -> Prompt:
        """``most``: tokens. A text that must have more is refused for its length alone."""
        if request.prompt_token_ids is not None:
            ids = self._checked_ids(request.prompt_token_ids, most)
            return Prompt(ids, request.in_reasoning)
        field, special = request.prompt_input, request.add_special_tokens
        if request.messages is None:
            text = request.prompt or ""
            self._check_length(field, len(text), most)
            return Prompt(self._tokenizer.encode(text, add_special_tokens=special is not False))
        chat = self._tokenizer.render_chat(request.messages, request.tools, request.chat_options)
        check()
        self._check_length(field, chat.length, most)
        ids = self._tokenizer.encode_rendered(chat, add_special_tokens=bool(special))
        return Prompt(ids, chat.in_reasoning)

    def _checked_ids(self, ids: tuple[int, ...], most: int) -> list[int]:
        if len(ids) <= most and any(not 0 <= id_ < self._vocab_size for id_ in ids):
            raise InvalidField(
                "prompt_token_ids", f"must hold token ids from 0 to {self._vocab_size - 1}"
            )
        return list(ids)

    def _check_length(self, field: str, characters: int, most: int) -> None:
        rate = self._tokenizer.characters_per_token
        if rate is None or characters <= most * rate:
            return
        if most > self._context_length:
            problem = f"must have at most {most * rate} characters, not {characters}"
            raise InvalidField(field, problem)
        raise ContextExceeded.of_characters(field, most, characters, most * rate)

    def _known(self, key: Hashable) -> Prompt | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: Hashable, prompt: Prompt) -> None:
        if len(prompt.ids) > self._context_length:
            return  # it will be refused
        with self._lock:
            if key not in self._kept:
                self._kept[key] = prompt
                self._kept_tokens += len(prompt.ids)
            while self._kept_tokens > KEPT_TOKENS:
                _, dropped = self._kept.popitem(last=False)
                self._kept_tokens -= len(dropped.ids)
