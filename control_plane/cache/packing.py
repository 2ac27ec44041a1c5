"""A whole answer as the bytes that a store keeps."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from pydantic import ConfigDict, TypeAdapter, ValidationError

from control_plane.cache.store import MAX_VALUE_BYTES
from control_plane.inference.responses import Delta, joined

MAX_UNPACKED_BYTES = MAX_VALUE_BYTES
"""Of one answer's responses. A larger answer is not kept; a value that unpacks to more is none."""
_FINISH_REASONS = ("stop", "length")
_TOKEN_KEYS = {"logprob", "rank", "decoded_token"}
_DELTAS = TypeAdapter(list[Delta], config=ConfigDict(extra="forbid", strict=True))


def pack(deltas: Sequence[Delta]) -> bytes | None:
    """Return a whole answer as bytes, or None if it is too large to be kept. It is kept in one
    part: to read 128 parts takes 0.4 ms."""
    data = _DELTAS.dump_json([joined(deltas)], exclude_defaults=True)
    return zlib.compress(data, 1) if len(data) <= MAX_UNPACKED_BYTES else None


def unpack(value: bytes) -> list[Delta]:
    """Return the deltas of a whole answer. Raises `ValueError` for a value that is none: others
    may write into the store, and another version of this program may have done so."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(value, MAX_UNPACKED_BYTES)
        if not unpacker.eof:
            raise ValueError("a kept answer is cut off or too large")
        deltas = _DELTAS.validate_json(data)
    except (zlib.error, ValidationError) as error:
        raise ValueError(f"a kept answer cannot be read: {error}") from None
    _check_whole(deltas)
    return deltas


def _check_whole(deltas: Sequence[Delta]) -> None:
    """Raises `ValueError` unless the last response, and no other, ends the answer."""
    reasons = [d.finish_reason for d in deltas]
    if not reasons or reasons[-1] not in _FINISH_REASONS or any(reasons[:-1]):
        raise ValueError("a kept answer is not whole")
    for d in deltas:
        if not all(map(_is_entry, [*(d.logprobs or ()), *filter(None, d.prompt_logprobs or ())])):
            raise ValueError("a kept answer has log probabilities of another form")


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and bool(entry)
        and all(isinstance(token, dict) and token.keys() >= _TOKEN_KEYS for token in entry.values())
    )
