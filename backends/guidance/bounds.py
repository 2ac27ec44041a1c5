"""Bounds on the size of a grammar, checked on its text alone in time linear in the text.

llguidance reads schemas, rules and patterns recursively, in native code that ends the process when
its stack is full. How deep it recurses depends on the grammar's graph, in which following a
reference is a step, as entering a nested part is. Large real schemas stay far below these bounds,
as `tests/backends/guidance` shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

MAX_STEPS = 400
"""The maximum number of steps on the longest path through references and nested parts. With a stack
of 4 MB, llguidance 1.9 takes 900 steps of a schema, and 600 rules."""
MAX_PARTS = 20_000
"""The maximum number of subschemas of a schema."""
MAX_LITERAL = 8192
"""The maximum number of characters of one fixed text: a constant, a property's name, a string in a
grammar."""
MAX_LITERALS = 128 * 1024
"""The maximum number of characters of all fixed texts together."""
MAX_RULES = 2048
"""The maximum number of rules of a GBNF grammar."""
MAX_NESTING = 64
"""The maximum number of groups that are open inside each other."""
MAX_WRITTEN_OUT = 50_000
"""The maximum number of parts of a pattern or of a rule when all repetitions are written out."""


class TooLarge(ValueError):
    """A grammar that exceeds a bound. The message completes a sentence that begins with the name of
    the field."""


NodeT = TypeVar("NodeT", bound=Hashable)


def check_steps(
    start: NodeT, steps: Callable[[NodeT], Iterable[tuple[NodeT, int]]], what: str
) -> None:
    """Check that no path from ``start`` is longer than `MAX_STEPS`.

    ``steps`` gives the nodes that a node leads to, each with the number of steps that it is away. A
    path ends where it meets itself, because what has been read is not read again. ``what`` names
    the thing in the error. Raises `TooLarge`.
    """
    longest: dict[NodeT, int] = {}
    path = [(start, iter(list(steps(start))))]
    on_path: dict[NodeT, int] = {start: 0}  # The longest path from each that is known so far.
    arrived = [0]  # The steps to each node of the path from the one before it.
    while path:
        node, rest = path[-1]
        step = next(rest, None)
        if step is None:
            path.pop()
            longest[node] = on_path.pop(node)
            if path:
                before = path[-1][0]
                on_path[before] = max(on_path[before], longest[node] + arrived.pop())
        elif step[0] in longest:
            on_path[node] = max(on_path[node], longest[step[0]] + step[1])
        elif step[0] not in on_path:
            path.append((step[0], iter(list(steps(step[0])))))
            on_path[step[0]] = 0
            arrived.append(step[1])
        if len(path) > MAX_STEPS or on_path.get(node, longest.get(node, 0)) > MAX_STEPS:
            raise TooLarge(
                f"must have {what} whose references and nested parts lead at most {MAX_STEPS} "
                "steps deep"
            )


class LiteralBudget:
    """The number of characters that the fixed texts of one request may still have.

    ``max_characters``: the number of characters that the model's context has room for.
    """

    def __init__(self, max_characters: int = MAX_LITERAL) -> None:
        self._max_characters = min(max_characters, MAX_LITERAL)
        self._left = MAX_LITERALS

    def add(self, text: str) -> None:
        """Count a fixed text. Raises `TooLarge` for one that is too long, or one too many."""
        if len(text) > self._max_characters:
            raise TooLarge(
                f"must have fixed texts of at most {self._max_characters} characters each"
            )
        self._left -= len(text)
        if self._left < 0:
            raise TooLarge(f"must have at most {MAX_LITERALS} characters of fixed texts")


_REGEX_PART = re.compile(
    r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]?|\{(\d*)(?:,(\d*))?\}|[()*+?]|.", re.DOTALL
)


def check_pattern(pattern: str) -> None:
    """Check how deep the groups of a regular expression are nested, and how many parts it has when
    all repetitions are written out.

    Syntax errors are left to the parser. Raises `TooLarge`.
    """
    groups = [0]  # The number of parts of each group that is open.
    last = 0  # The number of parts of the group before, which a repetition repeats.
    for part in _REGEX_PART.finditer(pattern):
        text = part[0]
        if text == "(":
            groups.append(0)
            if len(groups) > MAX_NESTING:
                raise TooLarge(f"must have a pattern nested at most {MAX_NESTING} levels deep")
            continue
        if part[1] is not None:
            groups[-1] -= last
            last *= repeats(part[1], part[2])
        elif text == ")" and len(groups) > 1:
            last = groups.pop()
        elif text in "*+?":
            continue
        else:
            last = 1
        groups[-1] += last
        if groups[-1] > MAX_WRITTEN_OUT:
            raise TooLarge(too_many_parts("a pattern"))


def repeats(low: str, high: str | None) -> int:
    """Return how often a part may be repeated that is followed by ``{low,high}``, both in digits.

    The result is at least 1, and `MAX_WRITTEN_OUT` + 1 for numbers with too many digits.
    """
    if max(len(low), len(high or "")) > len(str(MAX_WRITTEN_OUT)):
        return MAX_WRITTEN_OUT + 1
    return max(int(low or 0), int(high or 0), 1)


def too_many_parts(what: str) -> str:
    """Return the message of `TooLarge` for ``what``, a pattern or a rule, with too many parts."""
    return (
        f"must have {what} of at most {MAX_WRITTEN_OUT} parts, those that are repeated counted as "
        "often as they may come"
    )
