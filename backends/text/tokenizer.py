"""The tokenizer of all engines: text and chats to token ids, and token ids to text.

The detokenization of a stream is in `detokenizer`, stop strings are in `stop_strings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends.contract.chat import ChatOptions, Message, Tool, without_texts_for_arguments
from backends.contract.errors import EngineError, InvalidField
from backends.contract.names import CHAT_TEMPLATE_OPTIONS, MESSAGES
from backends.text.chat_format import ChatFormat
from backends.text.chat_template import (
    common_length,
    control_tokens,
    known_roles,
    main_template,
    own_arguments,
)
from backends.text.control_tokens import ControlTokens
from backends.text.encoding import encode_text, token_ids
from backends.text.length import characters_per_token
from backends.text.offsets import token_offsets
from backends.text.token_text import TokenTextDecoder
from backends.text.tokenizer_files import direct_backend, load_tokenizer
from backends.tokenizer import RenderedChat

MAX_PROBLEM = 500
"""The maximum number of characters of a template's error message."""
MANY_TOKENS = 4096
"""The number of tokens above which they are decoded without the GIL, which costs more for few."""


class HuggingFaceTokenizer:
    """A Hugging Face tokenizer with its chat template. Its methods may be called in any thread.

    Implements `backends.tokenizer.Tokenizer`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        allow_control_tokens: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Load the tokenizer of ``model``, a folder or a hub id. ``options``: for transformers.

        ``allow_control_tokens``: the spelling of a control token in a message becomes that token.
        """
        self._tokenizer = load_tokenizer(str(model), **options)
        self._tokenizer(".")  # This sets its state: no truncation, no padding.
        self._backend = direct_backend(self._tokenizer)
        added = self._tokenizer.added_tokens_decoder.items()
        self._special_ids = frozenset(
            [*self._tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)]
        )
        self._token_texts = TokenTextDecoder(self._tokenizer)
        self.chat_format = ChatFormat.of(main_template(self._tokenizer), self._is_special)
        self._own_arguments = own_arguments(self._tokenizer)
        self._control: ControlTokens | None = None
        if not allow_control_tokens:
            self._control = control_tokens(
                self._tokenizer, self._special_ids, self.chat_format.reasoning, self._backend
            )
        self.characters_per_token = (
            None if self._backend is None else characters_per_token(self._backend)
        )
        """The maximum number of characters that one token stands for, or None without a bound."""
        self.keeps_texts = self._template_keeps_texts()
        """True if the chat template leaves users' texts as they are, except for spaces around."""

    def _is_special(self, text: str) -> bool:
        return self._tokenizer.get_vocab().get(text) in self._special_ids

    def _template_keeps_texts(self) -> bool:
        """Return True if the template keeps users' texts, judging by one conversation."""
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
        """Return the token ids of a text. Raises `TooManyTokens` for more than ``most``."""
        if self._backend is None:
            ids = self._tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
            return token_ids(ids, most)
        return token_ids(encode_text(self._backend, prompt, add_special_tokens), most)

    def encode_continuation(self, text: str) -> list[int]:
        """Return the ids of a text that follows another: without a beginning-of-sequence token."""
        return self.encode(text, add_special_tokens=False)

    def encode_rendered(
        self, chat: RenderedChat, *, add_special_tokens: bool = False, most: int | None = None
    ) -> list[int]:
        """Return the token ids of a rendered chat.

        Raises `InvalidField`, and `TooManyTokens` if there are more than ``most``.
        """
        if not chat.marked or self._control is None:
            return self.encode(chat.text, add_special_tokens=add_special_tokens, most=most)
        return self._control.encode(
            chat.text, add_special_tokens=add_special_tokens, max_tokens=most
        )

    def encode_chat(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        options: ChatOptions | None = None,
    ) -> list[int]:
        """Return the token ids of a chat. Raises `InvalidField`."""
        return self.encode_rendered(self.render_chat(messages, tools, options))

    def render_chat(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        options: ChatOptions | None = None,
    ) -> RenderedChat:
        """Return a chat as the model's own template writes it. Raises `InvalidField`.

        transformers renders the template in Jinja's immutable sandbox.
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
                known_roles(self._tokenizer, messages),
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

    def text_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the index, in characters, at which the text of each token begins.

        Tokens of one character begin at the same index. A token that is not in the text begins
        where the next one does.
        """
        if self._backend is None:  # The tokenizer is written in Python.
            ids = self.encode(text, add_special_tokens=add_special_tokens)
            return token_offsets(self, ids)
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)
        offsets, end = [], 0
        for first, last in encoding.offsets:
            # White space before a word belongs to its token, though some tokenizers leave it out.
            offsets.append(end if first > end or first == last else first)
            end = max(end, last)
        return offsets

    def info(self) -> dict[str, Any]:
        """Return a description with the keys of ``tokenizer_config.json``, without any paths."""
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
        """Return True if the template has opened a block of reasoning where the response begins. A
        tag in somebody's message does not count."""
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
            return True  # Such a template always writes the generation prompt.
        same = common_length(text, before)
        if same == len(text):  # The template always writes its prompt, after the last message.
            last = messages[-1]["content"].strip()
            same = text.rfind(last) + len(last)
        return self.chat_format.opens_reasoning(text[same:])

    def to_json(self) -> str:
        """Return the JSON of the ``tokenizers`` library. Raises ValueError for other tokenizers."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("its tokenizer is not one of the tokenizers library")
        text: str = backend.to_str()
        return text

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of some tokens, with or without special tokens."""
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
        """Return True for the id of a special token."""
        return id_ in self._special_ids

    def token(self, id_: int) -> tuple[str, bytes | None]:
        """Return the text of one token, and its bytes where they are not valid UTF-8, else None."""
        return self._token_texts.decode(id_)

    def name(self, id_: int) -> str:
        """Return one token as the vocabulary spells it, such as ``Ġis``; "" for an unknown id."""
        token: str | None = self._tokenizer.convert_ids_to_tokens(id_)
        return "" if token is None else token
