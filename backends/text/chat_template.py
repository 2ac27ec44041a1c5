"""Functions for the chat template of a Hugging Face tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from backends.contract.chat import Message
from backends.text.control_tokens import ControlTokens, literal_text


def common_length(one: str, other: str) -> int:
    """Return the length of the longest common prefix of two texts."""
    if one.startswith(other):
        return len(other)
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def own_arguments(tokenizer: Any) -> frozenset[str]:  # noqa: ANN401
    """Return the names that a caller must not give to a template, because they are arguments of
    transformers' ``apply_chat_template`` and no variables of the template."""
    parameters = inspect.signature(tokenizer.apply_chat_template).parameters.values()
    named = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return frozenset(named | {"messages", "conversations"})


def main_template(tokenizer: Any) -> str | None:  # noqa: ANN401
    """Return the chat template or, where there are several, the one for chats with tools."""
    template: str | dict[str, str] | None = tokenizer.chat_template
    if isinstance(template, dict):
        return template.get("tool_use") or template.get("default")
    return template


def all_templates(tokenizer: Any) -> str:  # noqa: ANN401
    """Return the text of all chat templates, which is empty where there is none."""
    template: str | dict[str, str] | None = tokenizer.chat_template
    return "\n".join(template.values()) if isinstance(template, dict) else template or ""


def control_tokens(
    tokenizer: Any,  # noqa: ANN401
    special_ids: Collection[int],
    reasoning: tuple[str, str] | None,
    backend: Any,  # noqa: ANN401
) -> ControlTokens | None:
    """Return the control tokens of the chat template, or None where there is no template.

    These are the special tokens, with the ids ``special_ids``, and other added tokens that the
    template writes. (Some vocabularies add runs of spaces or tags of HTML: ordinary text.)
    ``reasoning``: the markers around reasoning. ``backend``: the `tokenizers.Tokenizer`, or None.
    """
    template = all_templates(tokenizer)
    if not template:
        return None
    literals = literal_text(template)
    tokens = {
        token.content: id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if id_ in special_ids or (token.content in literals and not token.content.isspace())
    }
    # What a model writes as visible text, it may read again: no turn ends with it.
    plain = [text for text, id_ in tokens.items() if id_ not in special_ids]
    plain += reasoning or ()
    return ControlTokens(tokens, plain, backend, tokenizer.unk_token_id)


def known_roles(tokenizer: Any, messages: list[Message]) -> list[Message]:  # noqa: ANN401
    """Return the messages with roles that the template knows: few know ``developer``, OpenAI's
    newer name of ``system``."""
    if "developer" in str(tokenizer.chat_template):
        return messages
    return [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]
