"""The check of JSON values that have been parsed: depth, finite numbers, whole characters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from math import isfinite
from typing import Any

MAX_DEPTH = 64
"""Objects and lists in each other."""

_NOT_FINITE = "must be a finite number"
_NO_TEXT = "must be text: half of a surrogate pair is no character"
TOO_DEEP = f"must not be nested more than {MAX_DEPTH} levels deep"


class WrongValue(Exception):
    """The error of a value that is wrong. Each container on the way out adds its place."""

    def __init__(self, problem: str, *path: str | int) -> None:
        super().__init__(problem)
        self.path: list[str | int] = list(path)


class ValueCheck:
    """A check of what has been parsed. ``texts``: whether half a surrogate pair may be in it."""

    def __init__(self, *, texts: bool) -> None:
        self._texts = texts

    def container(self, container: dict[str, Any] | list[Any], depth: int) -> None:
        """Check a container and what is in it. Raises `WrongValue`.

        What can be asked of all values at once is asked so: a loop takes longer.
        """
        values: Collection[Any] = container.values() if isinstance(container, dict) else container
        kinds = set(map(type, values))
        if float in kinds and not all(map(isfinite, _of(float, values, kinds))):
            self._find(container, lambda v: type(v) is not float or isfinite(v), _NOT_FINITE)
        if self._texts:
            self._check_texts(container, _of(str, values, kinds))
        if dict in kinds or list in kinds:
            if depth == MAX_DEPTH:
                raise WrongValue(TOO_DEEP)
            self._below(container, depth + 1)

    def _check_texts(self, container: dict[str, Any] | list[Any], texts: Collection[str]) -> None:
        if type(container) is dict and not _is_text("".join(container)):
            raise WrongValue("must not have a key with half of a surrogate pair in it")
        if not _is_text("".join(texts)):
            self._find(container, lambda v: type(v) is not str or _is_text(v), _NO_TEXT)

    def _below(self, container: dict[str, Any] | list[Any], depth: int) -> None:
        for place, value in _items(container):
            if type(value) is dict or type(value) is list:
                try:
                    self.container(value, depth)
                except WrongValue as wrong:
                    wrong.path.insert(0, place)
                    raise

    def _find(
        self, container: dict[str, Any] | list[Any], good: Callable[[Any], bool], problem: str
    ) -> None:
        raise WrongValue(problem, next(place for place, v in _items(container) if not good(v)))


def _of(kind: type, values: Collection[Any], kinds: set[type]) -> Collection[Any]:
    """Return the values of one kind. ``kinds``: all kinds that there are."""
    return values if kinds == {kind} else [v for v in values if type(v) is kind]


def _items(container: dict[str, Any] | list[Any]) -> Iterable[tuple[str | int, Any]]:
    return container.items() if isinstance(container, dict) else enumerate(container)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
