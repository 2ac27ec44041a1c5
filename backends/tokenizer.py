"""The interface between `serving` and a tokenizer: text in, token ids out, and back.

`backends.text.tokenizer` implements it for Hugging Face's tokenizers, which is what every engine
with real weights uses; an engine without any may bring its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from backends.contract.chat import ChatOptions, Message, Tool
from backends.text.chat_format import ChatFormat


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A chat as its template writes it: the prompt's text.

    ``text``: the prompt, with marks in it where the caller's texts had control tokens, if
    ``marked``; ``length``: its characters without them. ``in_reasoning``: the answer begins inside
    of a block that the template has opened.
    """

    text: str
    length: int
    marked: bool = False
    in_reasoning: bool = False


class Tokenizer(Protocol):
    """A tokenizer with its chat template. Methods may be called from any thread."""

    @property
    def chat_format(self) -> ChatFormat:
        """Return what the template writes around tool calls and reasoning."""

    @property
    def characters_per_token(self) -> int | None:
        """Return how many characters one token stands for at most; None: there is no bound."""

    @property
    def keeps_texts(self) -> bool:
        """Return whether the template writes users' texts as they are, but for outer spaces."""

    def encode(
        self, prompt: str, *, add_special_tokens: bool = True, most: int | None = None
    ) -> list[int]:
        """Return the ids of a text. Raises `TooManyTokens` for more than ``most``."""

    def encode_continuation(self, text: str) -> list[int]:
        """Return the ids of a text that follows another: without a beginning-of-sequence token."""

    def render_chat(
        self, messages: list[Message], tools: list[Tool] | None, options: ChatOptions
    ) -> RenderedChat:
        """Return a chat as the template writes it. Raises `InvalidField`."""

    def encode_rendered(
        self, chat: RenderedChat, *, add_special_tokens: bool = False, most: int | None = None
    ) -> list[int]:
        """Return the ids of a chat. Raises `InvalidField` and `TooManyTokens`."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of several tokens."""

    def text_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return, for each token of a text, the character at which its part begins."""

    def token(self, id_: int) -> tuple[str, bytes | None]:
        """Return one token's text, and its bytes where they are not those of the text."""

    def name(self, id_: int) -> str:
        """Return one token as the vocabulary has it, such as ``Ġis``."""

    def is_special(self, id_: int) -> bool:
        """Return whether a token is a special one, which `decode` skips."""

    def info(self) -> dict[str, Any]:
        """Return what the tokenizer is, under the names of ``tokenizer_config.json``."""

    def to_json(self) -> str:
        """Return the tokenizer as the ``tokenizers`` library writes it, for structured output.

        Raises ValueError where it is not of that library.
        """
