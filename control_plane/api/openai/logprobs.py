"""Log probabilities in the shapes of the two routes, from the contract's entries."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Protocol

from control_plane.inference.responses import TokenLogprobs

Values = dict[str, Any]


class Piece(Protocol):
    """The part of a delta, or of a whole answer, that matters here."""

    @property
    def text(self) -> str: ...

    @property
    def finish_reason(self) -> str | None: ...

    @property
    def logprobs(self) -> Sequence[TokenLogprobs] | None: ...

    @property
    def text_offsets(self) -> Sequence[int]: ...


class TextEntries:
    """The entries of an answer's tokens, each given out when the text that it begins with is there.

    Text is held back while it may belong to a stop string, or be a part of a character. So a stream
    has the same entries as a whole answer.
    """

    def __init__(self) -> None:
        self.characters = 0  # so far
        self._waiting: deque[tuple[TokenLogprobs, int]] = deque()

    def push(self, piece: Piece) -> tuple[list[tuple[TokenLogprobs, int]], list[TokenLogprobs]]:
        """Return the entries of tokens in the text, with where they begin, and those of tokens
        that are not in it: of a stop string, and the end of sequence."""
        self.characters += len(piece.text)
        new = list(zip(piece.logprobs or (), piece.text_offsets, strict=True))
        waiting = self._waiting
        if not waiting and new and new[-1][1] < self.characters:  # as nearly always
            return new, []
        waiting.extend(new)
        inside: list[tuple[TokenLogprobs, int]] = []
        while waiting and waiting[0][1] < self.characters:
            inside.append(waiting.popleft())
        if piece.finish_reason is None or not waiting:
            return inside, []
        left = list(waiting)
        waiting.clear()
        if piece.finish_reason == "stop":
            return inside, [entry for entry, _ in left]
        return inside + left, []  # special tokens, which have no text


def _bytes(token: Values) -> bytes:
    """Return a token's bytes. A token may be a part of a character: then they are not those of
    its text."""
    return bytes(token["bytes"]) if "bytes" in token else token["decoded_token"].encode()


class ChatLogprobs:
    """The builder of ``choices[].logprobs.content``, of the tokens that are in the text, as OpenAI
    has it.

    ``top``: the alternatives asked for. ``as_ids``: tokens are named by their ids.
    """

    def __init__(self, top: int, *, as_ids: bool = False) -> None:
        self._top = top
        self._as_ids = as_ids
        self._entries = TextEntries()

    def push(self, piece: Piece) -> list[Values]:
        inside, _ = self._entries.push(piece)
        return [self._token(entry) for entry, _ in inside]

    def _token(self, entry: TokenLogprobs) -> Values:
        ones = [(token["rank"], self._one(id_, token)) for id_, token in entry.items()]
        chosen = ones[0][1]
        ranked = sorted(ones, key=_RANK) if len(ones) > 1 else ones
        return chosen | {"top_logprobs": [one for rank, one in ranked if rank <= self._top]}

    def _one(self, id_: str, token: Values) -> Values:
        return {
            "token": f"token_id:{id_}" if self._as_ids else token["decoded_token"],
            "logprob": token["logprob"],
            "bytes": list(_bytes(token)),
        }


_RANK = itemgetter(0)


class CompletionLogprobs:
    """The builder of ``choices[].logprobs`` of ``/v1/completions``: an entry for each token, as
    vLLM has it.

    A token that is not in the text, as the one that ends an answer, has the text "" and stands at
    the text's end: evaluation harnesses count on there being as many entries as tokens.
    """

    def __init__(self, top: int, *, as_ids: bool = False) -> None:
        self._top = top
        self._as_ids = as_ids
        self._entries = TextEntries()
        self._before = 0  # characters of an echoed prompt

    def prompt(
        self, text: str, entries: Iterable[TokenLogprobs | None], offsets: Sequence[int], first: str
    ) -> Values:
        """Return the entries of a prompt that is echoed. ``first``: its first token, which has
        no log probability."""
        self._before = len(text)
        shape = self._shape()
        for entry, offset in zip(entries, offsets, strict=True):
            if entry is None:
                _append(shape, first, None, None, offset)
            else:
                self._append(shape, entry, offset)
        return shape

    def push(self, piece: Piece, shape: Values | None = None) -> Values:
        """Return the entries of a piece. ``shape``: the entries that come before."""
        shape = shape or self._shape()
        inside, outside = self._entries.push(piece)
        for entry, offset in inside:
            self._append(shape, entry, self._before + offset)
        for entry in outside:
            self._append(shape, entry, self._before + self._entries.characters, "")
        return shape

    @staticmethod
    def _shape() -> Values:
        return {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}

    def _append(
        self, shape: Values, entry: TokenLogprobs, offset: int, text: str | None = None
    ) -> None:
        """Append an entry. ``text``: the token's, where it is not its own."""
        tokens = iter(entry.items())
        id_, chosen = next(tokens)
        name = self._name(id_, chosen) if text is None or self._as_ids else text
        top = {name: chosen["logprob"]}
        for id_, token in tokens:
            if token["rank"] <= self._top:
                top[self._name(id_, token)] = token["logprob"]
        _append(shape, name, chosen["logprob"], top, offset)

    def _name(self, id_: str, token: Values) -> str:
        """Return a token's name, in OpenAI's way to write a part of a character: several would
        have the same text."""
        if self._as_ids:
            return f"token_id:{id_}"
        if "bytes" not in token:
            return str(token["decoded_token"])
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token["bytes"])


def _append(
    shape: Values, token: str, logprob: float | None, top: dict[str, float] | None, offset: int
) -> None:
    shape["text_offset"].append(offset)
    shape["token_logprobs"].append(logprob)
    shape["tokens"].append(token)
    shape["top_logprobs"].append(top)


def prompt_logprobs(
    entries: Iterable[TokenLogprobs | None] | None, top: int
) -> list[TokenLogprobs | None]:
    """Return ``prompt_logprobs`` in vLLM's shape: each token, and ``top`` alternatives."""
    return [entry and _without_bytes(entry, top) for entry in entries or ()]


def _without_bytes(entry: TokenLogprobs, top: int) -> TokenLogprobs:
    chosen = next(iter(entry))
    return {
        id_: {name: value for name, value in token.items() if name != "bytes"}
        for id_, token in entry.items()
        if id_ == chosen or token["rank"] <= top
    }
