"""How large a grammar may be, told from its text alone and in time that grows as the text does.

llguidance reads schemas, rules and patterns recursively, in native code that ends the process when
its stack is full. How deep it gets is a matter of the graph, in which a reference is a step as a
nested part is. Large real schemas stay far below these bounds, as `tests/backends/guidance` shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

MAX_STEPS = 400
"""On the longest path through references and nested parts. With a stack of 4 MB llguidance 1.9
takes 900 of a schema's steps, and 600 rules."""
MAX_PARTS = 20_000
"""Subschemas of a schema."""
MAX_LITERAL = 8192
"""Characters of a fixed text: a constant, a property's name, a string in a grammar."""
MAX_LITERALS = 128 * 1024
"""Characters of all fixed texts together."""
MAX_RULES = 2048
MAX_NESTING = 64
"""Groups inside each other."""
MAX_WRITTEN_OUT = 50_000
"""Parts of a pattern or of a rule, those that are repeated counted as often as they may come."""


class TooLarge(ValueError):
    """The text ends a sentence that begins with the name of the field."""


NodeT = TypeVar("NodeT", bound=Hashable)


def check_steps(
    start: NodeT, steps: Callable[[NodeT], Iterable[tuple[NodeT, int]]], what: str
) -> None:
    """``steps``: from a node to those that it leads to, and how many steps each is. A way that
    leads back to where it came from ends there: what has been read is not read again. Raises
    `TooLarge`."""
    longest: dict[NodeT, int] = {}
    path = [(start, iter(list(steps(start))))]
    on_path: dict[NodeT, int] = {start: 0}  # and the longest way from it that is known by now
    arrived = [0]  # steps to each node of the path from the one before it
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


class Literals:
    """Counts fixed text. ``longest``: characters that the model's context has room for."""

    def __init__(self, longest: int = MAX_LITERAL) -> None:
        self._longest = min(longest, MAX_LITERAL)
        self._left = MAX_LITERALS

    def add(self, text: str) -> None:
        """Raises `TooLarge`."""
        if len(text) > self._longest:
            raise TooLarge(f"must have fixed texts of at most {self._longest} characters each")
        self._left -= len(text)
        if self._left < 0:
            raise TooLarge(f"must have at most {MAX_LITERALS} characters of fixed texts")


_REGEX_PART = re.compile(
    r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]?|\{(\d*)(?:,(\d*))?\}|[()*+?]|.", re.DOTALL
)


def check_pattern(pattern: str) -> None:
    """Of a regular expression, the nesting of its groups, and how many parts it has when all of its
    repetitions are written out. What is wrong with it is left for its parser. Raises `TooLarge`."""
    groups = [0]  # parts of each group that is open
    last = 0  # those of the one that came last, which a repetition is of
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
    """How often a part may come that is followed by ``{low,high}``, in digits."""
    if max(len(low), len(high or "")) > len(str(MAX_WRITTEN_OUT)):
        return MAX_WRITTEN_OUT + 1
    return max(int(low or 0), int(high or 0), 1)


def too_many_parts(what: str) -> str:
    return (
        f"must have {what} of at most {MAX_WRITTEN_OUT} parts, those that are repeated counted as "
        "often as they may come"
    )
