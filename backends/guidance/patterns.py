"""Rewriting of patterns in JSON schemas, to make them safe for llguidance 1.9.

llguidance matches a pattern against the text as JSON spells it. Two of its translations are wrong:

- A character class that contains all control characters (``[^a"]``) also matches an escaped quote
  and an escaped backslash. Without one of the control characters it does not, so each class loses
  one that our JSON cannot spell anyway.
- A control character that JSON cannot spell is left out of the text, instead of not matching.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_CONTROL = re.compile(
    r"[\x00-\x1f\x7f]|\\(?:[av0]|c.|[xu]\{0*[01]?.\}|x(?:[01].|7f)|u00(?:[01].|7f))", re.IGNORECASE
)


_DOMAIN = r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
_SECONDS = r"\d+([.,]\d+)?S"
_TIME = rf"T(\d+H(\d+M)?({_SECONDS})?|\d+M({_SECONDS})?|{_SECONDS})"
_WITHOUT_LOOKAHEAD = {
    # The decimal number of pydantic before 2.13: any text but signs and points alone.
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(\d+\.?\d*|\.\d+)$",
    # Zod's email address: no point at the beginning, and no two points in a row.
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@" + _DOMAIN: (
        r"^([A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+-]@" + _DOMAIN
    ),
    # Zod's duration: something after the P, and something after a T.
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?"
    r"(\d+([.,]\d+)?S)?)?)$": (
        rf"^P(\d+W|(\d+Y(\d+M)?(\d+D)?|\d+M(\d+D)?|\d+D)({_TIME})?|{_TIME})$"
    ),
}
"""Patterns that libraries write by themselves, each with a regular pattern of the same meaning."""

_IRREGULAR = re.compile(r"\(\?<?[=!]|\\[1-9]|\\k<")


def is_regular(pattern: str) -> bool:
    """Return True for a pattern without lookaheads, lookbehinds and backreferences."""
    return not any(
        _IRREGULAR.match(pattern, at) for at, part in _parts_at(pattern) if part[0] in "(\\"
    )


def without_first_lookahead(pattern: str) -> tuple[str, str | None]:
    """Return the pattern without the lookahead that it begins with, such as ``^(?=.{1,253}$)``, and
    a second pattern that a text has to match as well.

    The second one is None, and the pattern unchanged, where it does not begin with a lookahead.
    """
    if not pattern.startswith("^(?="):
        return pattern, None
    depth, end = 0, 0
    for at, part in _parts_at(pattern):
        depth += (part == "(") - (part == ")")
        if part == ")" and not depth and not end:
            end = at
        if part == "|" and not depth:
            return pattern, None  # The lookahead belongs to one alternative alone.
    return ("^" + pattern[end + 1 :], f"^(?:{pattern[4:end]})") if end else (pattern, None)


def safe_pattern(pattern: str) -> str:
    """Return a pattern that llguidance translates correctly.

    Raises ValueError for a control character outside of a character class.
    """
    pattern = _WITHOUT_LOOKAHEAD.get(pattern, pattern)
    parts = []
    for _, part in _parts_at(pattern):
        if part.startswith(("[", "\\p", "\\P")) and len(part) > 1:
            parts.append(rf"[{part}&&[^\x0B]]")
        elif _CONTROL.fullmatch(part):
            raise ValueError("must have no control character in a `pattern`, but for classes")
        else:
            parts.append(part)
    return "".join(parts)


def _parts_at(pattern: str) -> Iterator[tuple[int, str]]:
    """Yield character classes, escapes and single characters, each with where it begins.

    Syntax errors are left to the regex parser.
    """
    at = 0
    while at < len(pattern):
        end = _class_end(pattern, at) if pattern[at] == "[" else _escape_end(pattern, at)
        yield at, pattern[at:end]
        at = end


_ESCAPE = re.compile(
    r"\\(?:[pP](?:\{[^}]*\}|.)|[xuU]\{[^}]*\}|x..|u....|U........|c.|.)", re.DOTALL
)


def _escape_end(pattern: str, at: int) -> int:
    found = _ESCAPE.match(pattern, at)
    return found.end() if found else at + 1


def _class_end(pattern: str, at: int) -> int:
    """Return the index after the bracket that closes the one at ``at``."""
    depth = 0
    while at < len(pattern):
        if pattern[at] == "[":
            depth += 1
            # A bracket that would close the class at once is a character.
            at += 1 + pattern.startswith("^", at + 1)
            at += pattern.startswith("]", at)
            continue
        if pattern[at] == "]":
            depth -= 1
            if not depth:
                return at + 1
        at = _escape_end(pattern, at)
    return at
