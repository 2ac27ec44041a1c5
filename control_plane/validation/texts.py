"""The texts of a prompt: all that a model may get to read, each with its place in the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from control_plane.inference.prompts import Chat, Prompt, Text, TokenIds

_KEYS = frozenset(
    [
        "role",
        "content",
        "type",
        "text",
        "name",
        "arguments",
        "function",
        "tool_calls",
        "tool_call_id",
        "id",
        "index",
        "description",
        "parameters",
    ]
)
"""Names that the API itself gives. Any other key may be written into a prompt as a value is."""
_WORDS = frozenset(
    ["system", "developer", "user", "assistant", "tool", "function", "text"],
)
"""Values of `role` and `type` that the API itself gives."""


class Place(NamedTuple):
    """The place of a text in a request. It is written out for errors only: `str` is
    ``messages[0].name``."""

    key: str | int
    parent: Place | None = None

    def __str__(self) -> str:
        if self.parent is None:
            return str(self.key)
        end = f"[{self.key}]" if isinstance(self.key, int) else f".{self.key[:64]}"
        return f"{self.parent}{end}"

    @property
    def field(self) -> str:
        """Return the request's field."""
        return str(self.key) if self.parent is None else self.parent.field


def texts_of(prompt: Prompt) -> Iterator[tuple[Place, str]]:
    """Yield every text of a prompt with its place; of token ids there is none."""
    if isinstance(prompt, str):
        yield Place("prompt"), prompt
    elif isinstance(prompt, Text):
        yield Place("prompt"), prompt.text
    elif isinstance(prompt, Chat):
        yield from _strings("messages", prompt.messages)
        yield from _strings("tools", prompt.tools or ())
        yield from _strings("chat_template_kwargs", prompt.options.get("template_kwargs", {}))
    elif not isinstance(prompt, TokenIds):
        yield from _strings("messages", prompt)


def _strings(field: str, value: object) -> Iterator[tuple[Place, str]]:
    """Yield the strings of a JSON value, and the keys that are not the API's own, in their
    order."""
    waiting: list[tuple[Place, object]] = [(Place(field), value)]
    while waiting:
        place, part = waiting.pop()
        if isinstance(part, str):
            if not (place.key in ("role", "type") and part in _WORDS):
                yield place, part
        elif isinstance(part, Mapping):
            yield from ((place, key) for key in part if key not in _KEYS)
            waiting += reversed([(Place(key, place), item) for key, item in part.items()])
        elif isinstance(part, Sequence):
            waiting += reversed([(Place(number, place), item) for number, item in enumerate(part)])
