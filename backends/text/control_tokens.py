"""Encoding of chats in which a caller's text never becomes a control token of the chat template.

Templates write messages between control tokens such as ``<|im_end|>``, and a tokenizer reads the
spelling of one as that token wherever it stands: a text with one in it could end its message and
begin another, in somebody else's name. So a mark is put before each spelling in the caller's texts.
When the template has been applied, the spellings without a mark, which are the template's own, are
replaced by placeholders: added tokens of a second tokenizer, which knows no other control tokens.
It has the first one's vocabulary and rules, so a marked spelling becomes ordinary tokens.

Only whole spellings are looked for. A template that joins two of a caller's texts without anything
between them, or removes characters from them, could create one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from backends.contract import names
from backends.contract.chat import Message
from backends.contract.errors import InvalidField
from backends.text.encoding import encode_text, token_ids


class ControlTokens:
    """The control tokens of a Hugging Face tokenizer. Its methods may be called in any thread."""

    def __init__(
        self,
        tokens: Mapping[str, int],
        allowed_to_assistants: Iterable[str],
        backend: Any,  # noqa: ANN401
        unknown: int | None,
    ) -> None:
        """Build the second tokenizer.

        ``tokens``: the spellings of control tokens, with their ids. ``allowed_to_assistants``: the
        spellings that remain control tokens in an assistant's message. ``backend``: the
        `tokenizers.Tokenizer`, or None where there is none; texts with control tokens are then
        refused. ``unknown``: the id of the token for unknown text, which any text may become.
        """
        self._ids = dict(tokens)
        self._backend = backend
        self._mark = secrets.token_hex(8)  # No text contains it.
        self._anywhere = _spellings(self._ids)
        self._in_assistants = _spellings(set(self._ids) - set(allowed_to_assistants))
        self._in_prompt = re.compile(
            f"{self._mark}(?:{self._anywhere.pattern})?|{self._anywhere.pattern}"
        )
        self._normalizer = None
        if backend is not None:
            self._build_plain_tokenizer(backend, unknown)

    def _build_plain_tokenizer(self, backend: Any, unknown: int | None) -> None:  # noqa: ANN401
        from tokenizers import AddedToken, Tokenizer

        added: dict[int, Any] = backend.get_added_tokens_decoder()
        if backend.normalizer is not None and any(
            token.normalized for id_, token in added.items() if token.content in self._ids
        ):
            self._normalizer = backend.normalizer  # Such tokens are found in normalised text.
        self._placeholders = {
            spelling: f"<{self._mark}-{number}>" for number, spelling in enumerate(self._ids)
        }
        self._break = f"<{self._mark}>"  # A token without text, which separates what is around it.
        self._plain = plain = Tokenizer(backend.model)  # The model is shared, not copied.
        for part in ("normalizer", "pre_tokenizer", "post_processor"):
            if (value := getattr(backend, part)) is not None:
                setattr(plain, part, value)
        plain.add_special_tokens([AddedToken(self._break, normalized=False, special=True)])
        own: dict[str, int] = {}
        for id_, token in sorted(added.items()):
            if token.content in self._ids:
                content = self._placeholders[token.content]
                around = {
                    name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip")
                }
                placeholder = AddedToken(content, normalized=False, special=True, **around)
                plain.add_special_tokens([placeholder])
            else:
                content = token.content
                plain.add_tokens([token])
            own[content] = id_
        # The ids of added tokens, which the second tokenizer numbers in its own way.
        self._renumbered = {plain.token_to_id(content): id_ for content, id_ in own.items()}
        self._break_id = plain.token_to_id(self._break)
        # The control tokens that are words of the vocabulary, too.
        words = backend.get_vocab_size(with_added_tokens=False)
        self._control_ids = {id_ for id_ in self._ids.values() if id_ < words} - {unknown}

    def marking(self) -> Marking:
        """Return a `Marking` for one request."""
        return Marking(self._mark, self._anywhere, self._in_assistants, self._normalizer)

    def unmarked(self, text: str) -> str:
        """Return a text without its marks."""
        return text.replace(self._mark, "")

    def encode(self, text: str, *, add_special_tokens: bool, max_tokens: int | None) -> list[int]:
        """Return the token ids of ``text``, the output of a template for marked texts.

        Raises `InvalidField`, and `TooManyTokens` where there are more than ``max_tokens``.
        """
        if self._backend is None:
            raise InvalidField(
                names.MESSAGES,
                "must not hold control tokens: this model's tokenizer cannot write them",
            )
        for parted in (False, True):
            encoding = self._encode(text, add_special_tokens, parted=parted)
            ids = token_ids(encoding, max_tokens)
            if self._control_ids.isdisjoint(ids):
                return [self._renumbered.get(i, i) for i in ids if i != self._break_id]
        raise InvalidField(names.MESSAGES, "hold a control token that cannot be written as text")

    def _encode(self, text: str, add_special_tokens: bool, *, parted: bool) -> Any:  # noqa: ANN401
        between = self._break if parted else ""

        def replacement(match: re.Match[str]) -> str:
            spelling = match[0].removeprefix(self._mark)
            if spelling == match[0]:
                return self._placeholders[spelling]
            return spelling[:1] + between + spelling[1:]

        return encode_text(self._plain, self._in_prompt.sub(replacement, text), add_special_tokens)


class Marking:
    """The marking of control tokens in the texts of one request. ``found``: there were some."""

    def __init__(
        self,
        mark: str,
        anywhere: re.Pattern[str],
        in_assistants: re.Pattern[str],
        normalizer: Any,  # noqa: ANN401
    ) -> None:
        self.found = False
        self._marked = mark + r"\g<0>"
        self._anywhere = anywhere
        self._in_assistants = in_assistants
        self._normalizer = normalizer

    def messages(self, messages: list[Message]) -> list[Message]:
        """Return copies of the messages, with a mark before each control token."""
        return [self._message(message) for message in messages]

    def _message(self, message: Message) -> Message:
        marked: Message = self.values(message)
        if message["role"] == "assistant":  # Some are the model's own words, which it gets back.
            marked["content"] = self._text(message["content"], self._in_assistants)
        return marked

    def values(self, value: Any) -> Any:  # noqa: ANN401
        """Return a copy of any JSON value with a mark before each control token, in keys, too."""
        if isinstance(value, str):
            return self._text(value, self._anywhere)
        if isinstance(value, dict):
            return {self.values(key): self.values(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.values(part) for part in value]
        return value

    def _text(self, text: str, spellings: re.Pattern[str]) -> str:
        marked, count = spellings.subn(self._marked, text)
        if count or (
            self._normalizer is not None
            and self._anywhere.search(self._normalizer.normalize_str(text))
        ):
            self.found = True
        return marked


def _spellings(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches the longest of the tokens.

    It is written as a prefix tree, in which a character of a text costs a step or two, however many
    tokens there are.
    """
    root: dict[str, Any] = {}
    for token in tokens:
        node = root
        for character in token:
            node = node.setdefault(character, {})
        node[""] = {}
    return re.compile(_written(root) if root else "(?!)")


def _written(node: dict[str, Any]) -> str:
    branches = [re.escape(c) + _written(node[c]) for c in sorted(node) if c]
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)})" + ("?" if "" in node else "")


def literal_text(template: str) -> str:
    """Return the text that a template may write by itself: its text and its string constants."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    # The tag `generation` of transformers marks an assistant's words, for training.
    source = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
    except TemplateSyntaxError:
        return template
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(texts)
