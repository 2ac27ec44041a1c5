"""A caller's text never becomes a control token of the chat template.

Templates write messages between control tokens such as ``<|im_end|>``, and a tokenizer takes their
spelling for them wherever it stands: a text with one in it could end its message and begin
another, in somebody else's name. So a mark is put before each spelling in what the caller gave, and
when the template has been applied, the spellings without a mark, which are its own, get stand-ins:
added tokens of a second tokenizer, which knows no other control tokens. It has the first one's
vocabulary and rules, so each text becomes the tokens that it is without its special meaning.

Only whole spellings are looked for. A template that joins two of a caller's texts without anything
between them, or takes characters out of them, could make one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from backends.contract import names
from backends.contract.chat import Message
from backends.contract.errors import InvalidField
from backends.text.encoding import encoded, listed


class ControlTokens:
    """Of a Hugging Face tokenizer. For any thread."""

    def __init__(
        self,
        tokens: Mapping[str, int],
        allowed_to_assistants: Iterable[str],
        backend: Any,  # noqa: ANN401
        unknown: int | None,
    ) -> None:
        """``tokens``: spellings with their ids. ``allowed_to_assistants``: those that stay what
        they are in the text of an assistant's message. ``backend``: a `tokenizers.Tokenizer`; None
        where there is no such: a text with a control token in it is then refused. ``unknown``: the
        id of the token that any text may become."""
        self._ids = dict(tokens)
        self._backend = backend
        self._mark = secrets.token_hex(8)  # no text has it
        self._anywhere = _spellings(self._ids)
        self._in_assistants = _spellings(set(self._ids) - set(allowed_to_assistants))
        self._in_prompt = re.compile(
            f"{self._mark}(?:{self._anywhere.pattern})?|{self._anywhere.pattern}"
        )
        self._normalizer = None
        if backend is not None:
            self._make_stand_ins(backend, unknown)

    def _make_stand_ins(self, backend: Any, unknown: int | None) -> None:  # noqa: ANN401
        from tokenizers import AddedToken, Tokenizer

        added: dict[int, Any] = backend.get_added_tokens_decoder()
        if backend.normalizer is not None and any(
            token.normalized for id_, token in added.items() if token.content in self._ids
        ):
            self._normalizer = backend.normalizer  # such tokens are found in what it makes
        self._stand_ins = {
            spelling: f"<{self._mark}-{number}>" for number, spelling in enumerate(self._ids)
        }
        self._break = f"<{self._mark}>"  # a token of no text, which keeps what is around it apart
        self._plain = plain = Tokenizer(backend.model)  # which is shared, and not copied
        for part in ("normalizer", "pre_tokenizer", "post_processor"):
            if (value := getattr(backend, part)) is not None:
                setattr(plain, part, value)
        plain.add_special_tokens([AddedToken(self._break, normalized=False, special=True)])
        own: dict[str, int] = {}
        for id_, token in sorted(added.items()):
            if token.content in self._ids:
                content = self._stand_ins[token.content]
                around = {
                    name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip")
                }
                stand_in = AddedToken(content, normalized=False, special=True, **around)
                plain.add_special_tokens([stand_in])
            else:
                content = token.content
                plain.add_tokens([token])
            own[content] = id_
        # What the second tokenizer numbers in its own way.
        self._renumbered = {plain.token_to_id(content): id_ for content, id_ in own.items()}
        self._break_id = plain.token_to_id(self._break)
        # Those that are among the words of the vocabulary, too.
        words = backend.get_vocab_size(with_added_tokens=False)
        self._control_ids = {id_ for id_ in self._ids.values() if id_ < words} - {unknown}

    def marking(self) -> Marking:
        return Marking(self._mark, self._anywhere, self._in_assistants, self._normalizer)

    def unmarked(self, text: str) -> str:
        return text.replace(self._mark, "")

    def encode(self, text: str, *, add_special_tokens: bool, most: int | None) -> list[int]:
        """``text``: what a template has made of what was marked. Raises `InvalidField`, and
        `TooManyTokens` where there are more than ``most``."""
        if self._backend is None:
            raise InvalidField(
                names.MESSAGES,
                "must not hold control tokens: this model's tokenizer cannot write them",
            )
        for parted in (False, True):
            encoding = self._encode(text, add_special_tokens, parted=parted)
            ids = listed(encoding, most)
            if self._control_ids.isdisjoint(ids):
                return [self._renumbered.get(i, i) for i in ids if i != self._break_id]
        raise InvalidField(names.MESSAGES, "hold a control token that cannot be written as text")

    def _encode(self, text: str, add_special_tokens: bool, *, parted: bool) -> Any:  # noqa: ANN401
        between = self._break if parted else ""

        def written(match: re.Match[str]) -> str:
            spelling = match[0].removeprefix(self._mark)
            if spelling == match[0]:
                return self._stand_ins[spelling]
            return spelling[:1] + between + spelling[1:]

        return encoded(self._plain, self._in_prompt.sub(written, text), add_special_tokens)


class Marking:
    """Marks the control tokens in what a caller gave. ``found``: there were some."""

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
        return [self._message(message) for message in messages]

    def _message(self, message: Message) -> Message:
        marked: Message = self.values(message)
        if message["role"] == "assistant":  # some are the model's own words, which it gets back
            marked["content"] = self._text(message["content"], self._in_assistants)
        return marked

    def values(self, value: Any) -> Any:  # noqa: ANN401
        """Of anything that JSON has, with a mark before each control token; keys have them too."""
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
    """Matches the longest of these. As a tree, in which a text's character costs a step or two
    however many there are."""
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
    """What a template can write of its own: its text and its strings."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    # `generation` marks an assistant's words, for training: a tag of transformers'.
    source = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
    except TemplateSyntaxError:
        return template
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(texts)
