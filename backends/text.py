"""Text to token ids and back, once for all engines: chat template, detokenisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from backends.chat import ChatOptions, Message, Tool
from backends.chat_format import ChatFormat
from backends.errors import InvalidField
from backends.spelling import Spelling

REPLACEMENT = "\ufffd"
CONTEXT_TOKENS = 6
"""Tokens decoded before a new one: SentencePiece needs some to know whether a space comes first."""
WINDOW_TOKENS = 16
LONGEST_CHARACTER_BYTES = 4  # in UTF-8


class Decoder(Protocol):
    def decode(self, ids: Sequence[int]) -> str: ...


class Tokenizer:
    """A Hugging Face tokenizer with its chat template."""

    def __init__(self, model: str | Path, **options: Any) -> None:  # noqa: ANN401
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model, **options)
        added = self._tokenizer.added_tokens_decoder.items()
        self._special_ids = frozenset(
            [*self._tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)]
        )
        self._spelling = Spelling(self._tokenizer)
        self.chat_format = ChatFormat.of(_main_template(self._tokenizer), self._is_special)

    def _is_special(self, text: str) -> bool:
        return self._tokenizer.get_vocab().get(text) in self._special_ids

    def encode(self, prompt: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = self._tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """Tokens of a text that follows another: without a beginning-of-sequence token."""
        return self.encode(text, add_special_tokens=False)

    def encode_chat(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        options: ChatOptions | None = None,
    ) -> list[int]:
        return self.encode(self.render_chat(messages, tools, options), add_special_tokens=False)

    def render_chat(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        options: ChatOptions | None = None,
    ) -> str:
        """Apply the model's own template (transformers renders it in Jinja's immutable sandbox)."""
        from jinja2 import TemplateError

        options = options or ChatOptions()
        if not self._tokenizer.chat_template:
            raise InvalidField("messages", "cannot be used: the model has no chat template")
        try:
            text: str = self._tokenizer.apply_chat_template(
                self._known_roles(messages),
                tools=tools,
                add_generation_prompt=options.add_generation_prompt,
                continue_final_message=options.continue_final_message,
                tokenize=False,
                **{k: v for k, v in options.template_kwargs.items() if k not in _OWN_ARGUMENTS},
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidField("messages", f"do not fit the chat template: {error}") from None
        return text

    def _known_roles(self, messages: list[Message]) -> list[Message]:
        """``developer`` is OpenAI's newer name of ``system``, which few templates know."""
        if "developer" in str(self._tokenizer.chat_template):
            return messages
        return [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]

    def text_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Where the part of the text begins that each of its tokens stands for. Tokens of one
        character begin at the same place; a token that is not in the text begins at the next one's.
        """
        options = {"add_special_tokens": add_special_tokens, "return_offsets_mapping": True}
        try:
            pairs = self._tokenizer(text, **options)["offset_mapping"]
        except NotImplementedError:  # a tokenizer in Python
            ids = self.encode(text, add_special_tokens=add_special_tokens)
            return token_offsets(self, ids)
        offsets, end = [], 0
        for first, last in pairs:
            # White space before a word is its token's, though some tokenizers leave it out.
            offsets.append(end if first > end or first == last else first)
            end = max(end, last)
        return offsets

    def info(self) -> dict[str, Any]:
        """What it is, under the names of ``tokenizer_config.json``; no paths."""
        tokenizer = self._tokenizer
        names = ["bos_token", "eos_token", "unk_token", "pad_token"]
        names += ["padding_side", "truncation_side", "clean_up_tokenization_spaces"]
        return {
            "tokenizer_class": type(tokenizer).__name__,
            **{name: getattr(tokenizer, name, None) for name in names},
            "added_tokens_decoder": {
                str(id_): str(token) for id_, token in tokenizer.added_tokens_decoder.items()
            },
            "chat_template": tokenizer.chat_template,
        }

    def to_json(self) -> str:
        """As the ``tokenizers`` library writes it. Raises ValueError where it is not of that."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("its tokenizer is not one of the tokenizers library")
        text: str = backend.to_str()
        return text

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text

    def is_special(self, id_: int) -> bool:
        return id_ in self._special_ids

    def token(self, id_: int) -> tuple[str, bytes | None]:
        """One token's text, and its bytes where they are not those of the text."""
        return self._spelling.of(id_)


_OWN_ARGUMENTS = frozenset(
    [
        *("conversation", "tools", "documents", "chat_template", "tokenize", "tokenizer_kwargs"),
        *("add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
    ]
)
"""Arguments of `apply_chat_template` that are no variables of the template."""


def _main_template(tokenizer: Any) -> str | None:  # noqa: ANN401
    """The template for chats with tools, where there is more than one."""
    template: str | dict[str, str] | None = tokenizer.chat_template
    if isinstance(template, dict):
        return template.get("tool_use") or template.get("default")
    return template


class Verbatim:
    """A decoder that leaves special tokens in the text."""

    def __init__(self, tokenizer: TokenDecoder) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class Detokenizer:
    """Turns one sequence's tokens into text as they come, and never splits a character.

    A character may be spread over several tokens. Until the last of them is there, a byte-level
    tokenizer decodes it to one U+FFFD, and SentencePiece's byte fallback decodes the whole run of
    byte tokens that it ends to one U+FFFD each, so text that ends in U+FFFD is held back, and the
    window of tokens that are decoded begins between two characters.
    """

    def __init__(self, decoder: Decoder, prompt_ids: Sequence[int]) -> None:
        self._decoder = decoder
        self._ids = _context(decoder, prompt_ids)
        self._emitted = len(decoder.decode(self._ids))
        self._boundaries = [len(self._ids)]  # positions in `_ids` between two characters

    def _stable(self, text: str) -> int:
        """How many characters no later token can change."""
        if len(self._ids) - self._boundaries[-1] < LONGEST_CHARACTER_BYTES:
            return len(text.rstrip(REPLACEMENT))
        return len(text) - text.endswith(REPLACEMENT)  # invalid bytes, but for perhaps the last

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps none."""
        self._ids.append(token_id)
        text = self._decoder.decode(self._ids)
        stable = self._stable(text)
        piece = text[self._emitted : stable]
        self._emitted = max(self._emitted, stable)
        if stable == len(text):
            self._boundaries.append(len(self._ids))
            if len(self._ids) > WINDOW_TOKENS:
                self._shorten()
        return piece

    def _shorten(self) -> None:
        longest = len(self._ids) - CONTEXT_TOKENS
        if cut := max((at for at in self._boundaries if at <= longest), default=0):
            del self._ids[:cut]
            self._boundaries = [at - cut for at in self._boundaries if at >= cut]
            self._emitted = len(self._decoder.decode(self._ids))

    def flush(self) -> str:
        """What an unfinished character leaves behind: U+FFFD, as decoding at once gives it."""
        text = self._decoder.decode(self._ids)
        piece = text[self._emitted :]
        self._emitted = len(text)
        return piece


class TokenDecoder(Protocol):
    """What `token_offsets` needs of a tokenizer."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def token(self, id_: int) -> tuple[str, bytes | None]: ...


_CONTINUATION = bytes(range(0x80, 0xC0))
"""In UTF-8, the bytes of a character but its first one."""


def token_offsets(tokenizer: TokenDecoder, ids: Sequence[int]) -> list[int]:
    """Where the text of each token begins in that of all, special tokens included."""
    text = tokenizer.decode(ids, skip_special_tokens=False)
    spelled = [text.encode() if raw is None else raw for text, raw in map(tokenizer.token, ids)]
    joined = b"".join(spelled).decode(errors="replace")
    # SentencePiece's leading space is not in the text.
    missing = len(joined) - len(text)
    if joined[max(missing, 0) :] != text or REPLACEMENT in joined or missing not in (0, 1):
        return _offsets_one_by_one(tokenizer, ids)
    offsets, characters = [], -missing
    for part in spelled:
        goes_on = bool(part) and part[0] in _CONTINUATION
        offsets.append(max(0, characters - goes_on))
        characters += len(part.translate(None, _CONTINUATION))
    return offsets


def _offsets_one_by_one(tokenizer: TokenDecoder, ids: Sequence[int]) -> list[int]:
    """For tokens whose texts do not add up to that of all: bytes that are no UTF-8, for one."""
    detokenizer, offsets, length = Detokenizer(Verbatim(tokenizer), []), [], 0
    for id_ in ids:
        offsets.append(length)
        length += len(detokenizer.push(id_))
    return offsets


def _context(decoder: Decoder, ids: Sequence[int]) -> list[int]:
    """The last few ids, and those before them that belong to the same character."""
    for length in range(CONTEXT_TOKENS, CONTEXT_TOKENS + LONGEST_CHARACTER_BYTES):
        context = list(ids[-length:])
        if not decoder.decode(context).startswith(REPLACEMENT):
            break
    return context
