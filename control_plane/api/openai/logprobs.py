"""Log probabilities in the shapes of the two routes, from the contract's entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from control_plane.triton.codec import Entry

Values = dict[str, Any]


def _bytes(token: Values) -> bytes:
    """A token may be a part of a character: then its bytes are not those of its text."""
    return bytes(token["bytes"]) if "bytes" in token else token["decoded_token"].encode()


class EndCutter:
    """Drops the tokens that are not in the text: those of a stop string, the end of sequence."""

    def __init__(self) -> None:
        self._text = self._tokens = 0  # bytes so far

    def push(self, entries: Sequence[Entry], text: str, finish_reason: str | None) -> list[Entry]:
        """The entries to report of one delta."""
        self._text += len(text.encode())
        kept = []
        for entry in entries:
            if finish_reason != "stop" or self._tokens < self._text:
                kept.append(entry)
            self._tokens += len(_bytes(next(iter(entry.values()))))
        return kept


def chat(entries: Iterable[Entry], top: int) -> list[Values]:
    """``choices[].logprobs.content``; ``top``: the alternatives asked for."""
    return [_chat_token(entry, top) for entry in entries]


def _chat_token(entry: Entry, top: int) -> Values:
    tokens = list(entry.values())
    ranked = sorted((t for t in tokens if t["rank"] <= top), key=lambda t: int(t["rank"]))
    return _one(tokens[0]) | {"top_logprobs": [_one(t) for t in ranked]}


def _one(token: Values) -> Values:
    return {
        "token": token["decoded_token"],
        "logprob": token["logprob"],
        "bytes": list(_bytes(token)),
    }


class CompletionLogprobs:
    """``choices[].logprobs`` of ``/v1/completions``, whose offsets go on from chunk to chunk."""

    def __init__(self) -> None:
        self._offset = 0  # characters

    def shape(self, entries: Iterable[Entry | None], first: str = "") -> Values:
        """``first``: the text of the token whose entry is None, that of a prompt."""
        tokens: list[str] = []
        logprobs: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for entry in entries:
            offsets.append(self._offset)
            if entry is None:
                tokens.append(first)
                logprobs.append(None)
                tops.append(None)
                self._offset += len(first)
                continue
            values = list(entry.values())
            tokens.append(_name(values[0]))
            logprobs.append(values[0]["logprob"])
            tops.append({_name(token): token["logprob"] for token in values})
            self._offset += len(values[0]["decoded_token"])
        return {
            "text_offset": offsets,
            "token_logprobs": logprobs,
            "tokens": tokens,
            "top_logprobs": tops,
        }


def _name(token: Values) -> str:
    """OpenAI's way to write a part of a character: several would have the same text."""
    if "bytes" not in token:
        return str(token["decoded_token"])
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token["bytes"])
