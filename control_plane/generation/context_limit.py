"""What cannot fit into a model's context is refused for its length, before anything is sent.

How many tokens a text has, only the model's tokenizer can tell, and that is much work for a long
one. But a model says how many characters one token stands for at most, where its tokenizer has such
a bound, and so from which length on a text must be too long. What is refused here would be refused
by the engine, in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.contract import names
from backends.contract.errors import ContextExceeded, InvalidField
from control_plane.inference.engine_errors import of_engine
from control_plane.inference.prompts import Chat, Prompt, Text, TokenIds
from control_plane.models.catalog import Model


def check_fits(model: Model, prompt: Prompt) -> None:
    """Check that a prompt may fit into the context. Raises `ContextLengthExceeded`."""
    context = model.facts.context_length
    if context is None:
        return
    if isinstance(prompt, TokenIds):
        if len(prompt.ids) >= context:
            size = f"{len(prompt.ids)} tokens"
            raise of_engine(ContextExceeded.of_prompt(names.PROMPT_TOKEN_IDS, context, size))
        return
    field, characters = _length(model, prompt)
    most = _characters(model, context)
    if most is not None and characters > most:
        raise of_engine(ContextExceeded.of_characters(field, context, characters, most))


def check_tokenizable(model: Model, prompt: Prompt) -> None:
    """Check a prompt that is tokenised or turned into text, and not computed: the limit is a
    multiple of the context. Raises `InvalidRequest`."""
    tokens = model.facts.tokenize_length
    if tokens is None:
        return
    most: int | None
    if isinstance(prompt, TokenIds):
        field, given, most, unit = names.PROMPT_TOKEN_IDS, len(prompt.ids), tokens, "tokens"
    else:
        field, given = _length(model, prompt)
        most, unit = _characters(model, tokens), "characters"
    if most is not None and given > most:
        raise of_engine(InvalidField(field, f"must have at most {most} {unit}, not {given}"))


def check_attributable(model: Model, prompt: str, target: str | None) -> None:
    """Check the texts of an attribution. Raises `InvalidRequest`."""
    context = model.facts.context_length
    if context is None or (most := _characters(model, context)) is None:
        return
    for field, text in ((names.TEXT_INPUT, prompt), (names.TARGET, target or "")):
        if len(text) > most:
            raise of_engine(ContextExceeded.of_characters(field, context, len(text), most))


def check_rows(
    model: Model, rows: Sequence[str] | Sequence[Sequence[int]], *, truncated: bool
) -> None:
    """Check an embedding model's texts, or their token ids. Raises `ContextLengthExceeded`."""
    context = model.facts.context_length
    if context is None or truncated:
        return
    most = _characters(model, context)
    for number, row in enumerate(rows):
        if isinstance(row, str):
            field, limit, unit = names.TEXT_INPUT, most, "characters"
        else:
            field, limit, unit = names.INPUT_IDS, context, "tokens"
        if limit is not None and len(row) > limit:
            raise of_engine(ContextExceeded.of_text(field, context, number, f"{len(row)} {unit}"))


def _length(
    model: Model, prompt: str | Text | Chat | Sequence[Mapping[str, Any]]
) -> tuple[str, int]:
    """Return the contract's name of the prompt, and how many characters it has at least."""
    if isinstance(prompt, str):
        return names.TEXT_INPUT, len(prompt)
    if isinstance(prompt, Text):
        return names.TEXT_INPUT, len(prompt.text)
    messages = prompt.messages if isinstance(prompt, Chat) else prompt
    return names.MESSAGES, _certain_length(model, messages)


def _certain_length(model: Model, messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of characters that the chat template writes in any case: those of what
    the user said last. It may leave out others, such as former thoughts."""
    if not model.facts.chat.keeps_texts or not messages:
        return 0
    content = messages[-1].get("content")
    if messages[-1].get("role") != "user" or not content:
        return 0
    if isinstance(content, str):
        return len(content.strip())
    return sum(len(part["text"].strip()) for part in content)


def _characters(model: Model, tokens: int) -> int | None:
    """Return how many characters so many tokens can stand for; None for any number."""
    rate = model.facts.characters_per_token
    return None if rate is None else rate * tokens
