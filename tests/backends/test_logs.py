"""What the log holds of a failure."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from backends.logs import MAX_BYTES, BoundedFormatter

PROMPT = "the secret of tenant A is hunter2, and nobody else may know"


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(BoundedFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    yield logger, stream


def fail(depth: int, error: Exception) -> None:
    if depth:
        fail(depth - 1, error)
    raise error


def test_an_ordinary_failure_says_where_and_why(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    try:
        fail(1, ValueError("seven is too many"))
    except ValueError as error:
        logger.error("request %s failed", "req_1", exc_info=error)
    text = stream.getvalue()
    assert text.startswith("ERROR request req_1 failed\n")
    assert text.endswith("ValueError: seven is too many\n")
    assert "in fail" in text
    assert "test_logs.py" in text


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"cannot read {PROMPT!r}"),
        KeyError(PROMPT),
        TypeError("x" * 1_000_000),
        ValueError("é" * 1_000_000),
        UnicodeEncodeError("utf-8", PROMPT + "\ud800", len(PROMPT), len(PROMPT) + 1, "surrogates"),
    ],
    ids=["quoted", "key", "long", "wide", "unicode"],
)
def test_a_failure_is_short_and_tells_no_secrets(
    log: tuple[logging.Logger, io.StringIO], error: Exception
) -> None:
    logger, stream = log
    try:
        try:
            fail(500, error)
        except Exception as cause:
            raise RuntimeError("that is why") from cause
    except RuntimeError as failure:
        logger.error("request %s failed", "req_1", exc_info=failure)
    text = stream.getvalue()
    assert len(text.encode()) <= MAX_BYTES + 1
    assert "hunter2" not in text
    assert type(error).__name__ in text
    assert text.endswith("RuntimeError: that is why\n")


def test_infinite_recursion(log: tuple[logging.Logger, io.StringIO]) -> None:
    def forever() -> None:
        forever()

    logger, stream = log
    try:
        forever()
    except RecursionError as error:
        logger.error("request %s failed", "req_1", exc_info=error)
    assert len(stream.getvalue()) <= MAX_BYTES
    assert "RecursionError: maximum recursion depth exceeded" in stream.getvalue()


def test_a_record_of_any_kind_is_bounded(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    logger.info("begin %s end", "\ud800é" * 100_000)
    text = stream.getvalue()
    assert len(text.encode()) <= MAX_BYTES + 1
    assert text.startswith("INFO begin ")
    assert text.endswith(" end\n")
