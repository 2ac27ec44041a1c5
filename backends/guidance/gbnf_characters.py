"""Characters in GBNF: escapes in strings, and sets such as ``[a-z]``."""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_SET_PART = re.compile(
    r"(\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|.)"
    r"(?:-(\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|.))?",
    re.DOTALL,
)


def unescape(spelled: str) -> str:
    """Return the text that is spelled with escapes. Raises ValueError for a wrong one."""
    return _ESCAPE.sub(lambda escape: _character(escape), spelled)


def _character(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    if code is None:
        character: str = escape[4]
        if character.isalnum() and character not in _ESCAPED:
            raise ValueError(f"`\\{character}` is no escape")
        return _ESCAPED.get(character, character)
    if 0xD800 <= int(code, 16) < 0xE000 or int(code, 16) > 0x10FFFF:
        raise ValueError(f"`{escape[0]}` is no character")
    return chr(int(code, 16))


def character_set(spelled: str) -> str:
    """Return a set such as ``[a-z\\]]`` as a regular expression in Lark's slashes, with every
    character as a number. Raises ValueError."""
    negated = spelled.startswith("[^")
    inside = spelled[2 if negated else 1 : -1]
    parts = []
    for part in _SET_PART.finditer(inside):
        low = unescape(part[1])
        high = unescape(part[2]) if part[2] else low
        if low > high:
            raise ValueError(f"`{part[0][:32]}` is no range")
        parts.append(f"\\x{{{ord(low):x}}}" + (f"-\\x{{{ord(high):x}}}" if part[2] else ""))
    if not parts:
        if negated:
            return "/(?s:.)/"
        raise ValueError("`[]` has no characters")
    return f"/[{'^' if negated else ''}{''.join(parts)}]/"
