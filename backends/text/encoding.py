"""Tokenization by the tokenizers library that does not delay other requests.

A very long text is encoded in a thread of low priority. On a machine whose cores generate tokens,
it would otherwise take a core for seconds from a team of threads that wait for each other at every
operation, and all responses would be as slow as the thread that waits for that core.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

LONG_TEXT_CHARACTERS = 1 << 18
"""The number of characters from which on a text is encoded at low priority."""
NICENESS = 10
"""The nice value of that thread, which gets a tenth of the CPU time of others where there are not
enough cores for all."""


def _lower_priority() -> None:
    with suppress(OSError):  # A sandbox may forbid it.
        # On Linux this changes the priority of this thread alone.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


_long_texts = ThreadPoolExecutor(1, "longest-texts", initializer=_lower_priority)


def encode_text(backend: Any, text: str, add_special_tokens: bool) -> Any:  # noqa: ANN401
    """Return the encoding of a text by ``backend``, a `tokenizers.Tokenizer`.

    Of the library's methods, this one releases the GIL, and computes no offsets.
    """
    encode = partial(backend.encode_batch_fast, [text], add_special_tokens=add_special_tokens)
    (encoding,) = (
        _long_texts.submit(encode).result() if len(text) >= LONG_TEXT_CHARACTERS else encode()
    )
    return encoding


class TooManyTokens(Exception):
    """A text has more tokens than are allowed. ``count``: the number of its tokens."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def token_ids(encoding: Any, max_tokens: int | None) -> list[int]:  # noqa: ANN401
    """Return the token ids of an encoding of the tokenizers library, or of a list.

    Raises `TooManyTokens` where there are more than ``max_tokens``, before the ids are listed: for
    millions of them this takes long, and blocks all threads meanwhile.
    """
    if max_tokens is not None and len(encoding) > max_tokens:
        raise TooManyTokens(len(encoding))
    ids: list[int] = encoding if isinstance(encoding, list) else encoding.ids
    return ids
