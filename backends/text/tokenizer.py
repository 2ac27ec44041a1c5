"""Text to token ids and back, once for all engines: the tokenizer, and its chat template.

Detokenisation of a stream is in `detokenizer`, stop strings are in `stop_strings`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.contract.chat import ChatOptions, Message, Tool, without_texts_for_arguments
from backends.contract.errors import EngineError, InvalidField
from backends.contract.names import CHAT_TEMPLATE_OPTIONS, MESSAGES
from backends.text.chat_format import ChatFormat
from backends.text.control_tokens import ControlTokens, literal_text
from backends.text.encoding import encoded, listed
from backends.text.length import characters_per_token
from backends.text.offsets import token_offsets
from backends.text.token_text import Spelling
from backends.text.tokenizer_files import direct_backend, load_tokenizer

MAX_PROBLEM = 500
"""Characters of what a template says is wrong."""
MANY_TOKENS = 4096
"""So many are decoded without Python's lock, which costs more with few."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """``text``: the prompt, with marks in it where the caller's texts had control tokens, if
    ``marked``; ``length``: its characters without them. ``in_reasoning``: the answer begins inside
    of a block that the template has opened."""

    text: str
    length: int
    marked: bool = False
    in_reasoning: bool = False


class Tokenizer:
    """A Hugging Face tokenizer with its chat template. For any thread."""

    def __init__(
        self,
        model: str | Path,
        *,
        allow_control_tokens: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """``allow_control_tokens``: a control token's spelling in a message is that token."""
        self._tokenizer = load_tokenizer(str(model), **options)
        self._tokenizer(".")  # settles what is state: no truncation, no padding
        self._backend = direct_backend(self._tokenizer)
        added = self._tokenizer.added_tokens_decoder.items()
        self._special_ids = frozenset(
            [*self._tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)]
        )
        self._spelling = Spelling(self._tokenizer)
        self.chat_format = ChatFormat.of(_main_template(self._tokenizer), self._is_special)
        self._own_arguments = _own_arguments(self._tokenizer)
        self._control = None if allow_control_tokens else self._control_tokens()
        self.characters_per_token = (
            None if self._backend is None else characters_per_token(self._backend)
        )
        """Of a text, one token stands for so many characters at most; None: for any number."""
        self.keeps_texts = self._template_keeps_texts()
        """The chat template writes what users say as it is, but for spaces around it."""

    def _is_special(self, text: str) -> bool:
        return self._tokenizer.get_vocab().get(text) in self._special_ids

    def _control_tokens(self) -> ControlTokens | None:
        """Special tokens, and other added ones that the template writes. (Some vocabularies have
        runs of spaces or tags of HTML among those, which are a text like any other.)"""
        template = _all_templates(self._tokenizer)
        if not template:
            return None
        literals = literal_text(template)
        tokens = {
            token.content: id_
            for id_, token in self._tokenizer.added_tokens_decoder.items()
            if id_ in self._special_ids
            or (token.content in literals and not token.content.isspace())
        }
        # What a model says in plain sight, it may read again: no turn ends with it.
        plain = [text for text, id_ in tokens.items() if id_ not in self._special_ids]
        plain += self.chat_format.reasoning or ()
        return ControlTokens(tokens, plain, self._backend, self._tokenizer.unk_token_id)

    def _template_keeps_texts(self) -> bool:
        """As far as can be seen from a conversation."""
        text = "Is 1 < 2,\n\tor &amp; 'a'  \"b\"? {{ x }} \u4e2d\U0001f600"
        turns = [("user", f"{text}1"), ("assistant", "a"), ("user", f"{text}2")]
        try:
            chat = self.render_chat([{"role": r, "content": content} for r, content in turns])
        except EngineError:
            return False
        return all(content in chat.text for role, content in turns if role == "user")

    def encode(
        self, prompt: str, *, add_special_tokens: bool = True, most: int | None = None
    ) -> list[int]:
        """Raises `TooManyTokens` where there are more than ``most``."""
        if self._backend is None:
            ids = self._tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
            return listed(ids, most)
        return listed(encoded(self._backend, prompt, add_special_tokens), most)

    def encode_continuation(self, text: str) -> list[int]:
        """Tokens of a text that follows another: without a beginning-of-sequence token."""
        return self.encode(text, add_special_tokens=False)

    def encode_rendered(
        self, chat: RenderedChat, *, add_special_tokens: bool = False, most: int | None = None
    ) -> list[int]:
        """Raises `InvalidField`, and `TooManyTokens` where there are more than ``most``."""
        if not chat.marked or self._control is None:
            return self.encode(chat.text, add_special_tokens=add_special_tokens, most=most)
        return self._control.encode(chat.text, add_special_tokens=add_special_tokens, most=most)

    def encode_chat(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        options: ChatOptions | None = None,
    ) -> list[int]:
        return self.encode_rendered(self.render_chat(messages, tools, options))

    def render_chat(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        options: ChatOptions | None = None,
    ) -> RenderedChat:
        """Apply the model's own template (transformers renders it in Jinja's immutable sandbox).

        Raises `InvalidField`.
        """
        options = options or ChatOptions()
        self._check_template_kwargs(options)
        marking = self._control.marking() if self._control is not None else None
        if marking is not None:
            messages = marking.messages(messages)
            tools = marking.values(tools)
            options = replace(
                options, template_kwargs=marking.values(dict(options.template_kwargs))
            )
        try:
            text = self._apply_template(messages, tools, options)
        except InvalidField:
            with_objects = without_texts_for_arguments(messages)
            if with_objects == messages:
                raise
            messages = with_objects
            text = self._apply_template(messages, tools, options)
        return RenderedChat(
            text,
            len(self._unmarked(text)),
            marking is not None and marking.found,
            self._opens_reasoning(text, messages, tools, options),
        )

    def _check_template_kwargs(self, options: ChatOptions) -> None:
        for name, value in options.template_kwargs.items():
            if name in self._own_arguments and value is not None:
                raise InvalidField(
                    CHAT_TEMPLATE_OPTIONS,
                    f"must not have `{name}` in template_kwargs: it is no variable of a template",
                )

    def _apply_template(
        self, messages: list[Message], tools: list[Tool] | None, options: ChatOptions
    ) -> str:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise InvalidField(MESSAGES, "cannot be used: the model has no chat template")
        variables = {
            name: value
            for name, value in options.template_kwargs.items()
            if name not in self._own_arguments
        }
        try:
            text: str = self._tokenizer.apply_chat_template(
                self._known_roles(messages),
                tools=tools,
                add_generation_prompt=options.add_generation_prompt,
                continue_final_message=options.continue_final_message,
                tokenize=False,
                **variables,
            )
        except (TemplateError, TypeError, ValueError, RecursionError) as error:
            problem = self._unmarked(f"do not fit the chat template: {error}")[:MAX_PROBLEM]
            raise InvalidField(MESSAGES, problem) from None
        return text

    def _unmarked(self, text: str) -> str:
        return text if self._control is None else self._control.unmarked(text)

    def _known_roles(self, messages: list[Message]) -> list[Message]:
        """``developer`` is OpenAI's newer name of ``system``, which few templates know."""
        if "developer" in str(self._tokenizer.chat_template):
            return messages
        return [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]

    def text_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Where the part of the text begins that each of its tokens stands for. Tokens of one
        character begin at the same place; a token that is not in the text begins at the next one's.
        """
        if self._backend is None:  # a tokenizer in Python
            ids = self.encode(text, add_special_tokens=add_special_tokens)
            return token_offsets(self, ids)
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)
        offsets, end = [], 0
        for first, last in encoding.offsets:
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

    def _opens_reasoning(
        self,
        text: str,
        messages: list[Message],
        tools: list[Tool] | None,
        options: ChatOptions,
    ) -> bool:
        """Whether the template has opened a block of reasoning where the answer begins: a tag in
        somebody's message says nothing."""
        if not self.chat_format.opens_reasoning(text):
            return False
        if options.continue_final_message:
            return self.chat_format.begins_with_reasoning(messages[-1]["content"])
        if not options.add_generation_prompt:
            return False
        try:
            before = self._apply_template(
                messages, tools, replace(options, add_generation_prompt=False)
            )
        except InvalidField:
            return True  # such a template cannot do without
        same = _common_length(text, before)
        if same == len(text):  # the template writes its prompt in any case, behind the last message
            last = messages[-1]["content"].strip()
            same = text.rfind(last) + len(last)
        return self.chat_format.opens_reasoning(text[same:])

    def to_json(self) -> str:
        """As the ``tokenizers`` library writes it. Raises ValueError where it is not of that."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("its tokenizer is not one of the tokenizers library")
        text: str = backend.to_str()
        return text

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text: str
        if self._backend is None:
            text = self._tokenizer.decode(
                ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        elif len(ids) > MANY_TOKENS:
            (text,) = self._backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)
        else:
            text = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def is_special(self, id_: int) -> bool:
        return id_ in self._special_ids

    def token(self, id_: int) -> tuple[str, bytes | None]:
        """One token's text, and its bytes where they are not those of the text."""
        return self._spelling.of(id_)

    def name(self, id_: int) -> str:
        """One token as the vocabulary has it, such as ``Ġis``."""
        token: str | None = self._tokenizer.convert_ids_to_tokens(id_)
        return "" if token is None else token


def _common_length(one: str, other: str) -> int:
    """Characters at the beginning that both have."""
    if one.startswith(other):
        return len(other)
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _own_arguments(tokenizer: Any) -> frozenset[str]:  # noqa: ANN401
    """What a template's caller may not give a value of: they are no variables of it."""
    parameters = inspect.signature(tokenizer.apply_chat_template).parameters.values()
    named = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return frozenset(named | {"messages", "conversations"})


def _main_template(tokenizer: Any) -> str | None:  # noqa: ANN401
    """The template for chats with tools, where there is more than one."""
    template: str | dict[str, str] | None = tokenizer.chat_template
    if isinstance(template, dict):
        return template.get("tool_use") or template.get("default")
    return template


def _all_templates(tokenizer: Any) -> str:  # noqa: ANN401
    template: str | dict[str, str] | None = tokenizer.chat_template
    return "\n".join(template.values()) if isinstance(template, dict) else template or ""
