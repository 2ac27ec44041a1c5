"""Text to token ids by the tokenizers library, without holding up others.

A very long text is encoded in a thread that the system lets wait for others. On a machine whose
cores compute answers, it would else take one of them for seconds from a team of threads that wait
for each other at every operation, and all answers would be as slow as the one that waits.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

LONGEST_TEXT = 1 << 18
"""Characters, from which on."""
NICENESS = 10
"""A tenth of what other threads get, where there are not enough cores for all."""


def _step_back() -> None:
    with suppress(OSError):  # a sandbox may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # this thread's alone


_aside = ThreadPoolExecutor(1, "longest-texts", initializer=_step_back)


def encoded(backend: Any, text: str, add_special_tokens: bool) -> Any:  # noqa: ANN401
    """An encoding by a `tokenizers.Tokenizer`. Of the library's ways this one lets go of Python's
    lock, and it does not make what nobody asks for."""
    encode = partial(backend.encode_batch_fast, [text], add_special_tokens=add_special_tokens)
    (encoding,) = _aside.submit(encode).result() if len(text) >= LONGEST_TEXT else encode()
    return encoding


class TooManyTokens(Exception):
    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def listed(encoding: Any, most: int | None) -> list[int]:  # noqa: ANN401
    """The ids of an encoding of the tokenizers library. Millions of them take long to list, and
    hold up all threads meanwhile. Raises `TooManyTokens`."""
    if most is not None and len(encoding) > most:
        raise TooManyTokens(len(encoding))
    ids: list[int] = encoding if isinstance(encoding, list) else encoding.ids
    return ids
