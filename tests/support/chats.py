"""Chats through OpenAI's client."""

from __future__ import annotations

from typing import Any

from openai import OpenAI


def ask(client: OpenAI, *, stream: bool = False, **fields: Any) -> tuple[Any, str]:  # noqa: ANN401
    """Return the message, whole or put together by the client's helper, and its finish reason."""
    if not stream:
        choice = client.chat.completions.create(**fields).choices[0]
        return choice.message, choice.finish_reason
    with client.chat.completions.stream(**fields) as events:
        events.until_done()
        final = events.get_final_completion().choices[0]
    return final.message, final.finish_reason
