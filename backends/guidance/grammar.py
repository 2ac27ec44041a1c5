"""What was asked for, as a grammar in llguidance's own form."""

from __future__ import annotations

import json
import re

from backends.errors import InvalidField
from backends.guidance.json_schema import schema_grammar
from backends.structured import StructuredOutput


def llguidance_grammar(guided: StructuredOutput) -> str:
    """Raises `InvalidField` for what cannot be a grammar; the grammar may still prove wrong."""
    try:
        return _grammar(guided)
    except InvalidField:
        raise
    # The converters raise plain exceptions, and go as deep as what they convert.
    except Exception as error:
        raise InvalidField(guided.given_as, f"{_NAMES[guided.kind]} {short(error)}") from None


_NAMES = {
    "json": "has a schema that cannot be read:",
    "json_object": "cannot be read:",
    "regex": "has a pattern that cannot be read:",
    "choice": "has choices that cannot be read:",
    "grammar": "has a grammar that is not GBNF:",
}


def short(error: object) -> str:
    """A library's message in one line that is not the whole grammar."""
    first = str(error).replace("<non-verbose/>", "").strip()
    text = " ".join(first.split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


def _grammar(guided: StructuredOutput) -> str:
    from llguidance import LLMatcher

    value = guided.value
    if isinstance(value, tuple):
        choices = " | ".join(json.dumps(text, ensure_ascii=False) for text in value)
        return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {choices}\n")
    if guided.kind == "regex":
        return LLMatcher.grammar_from_regex(value)
    if guided.kind == "grammar":
        return LLMatcher.grammar_from_lark(_lark(value))
    return schema_grammar(guided.given_as, value or '{"type": "object"}')


_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


def _lark(gbnf: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    def literal(match: re.Match[str]) -> str:
        """The converter keeps escapes by number as they are, which Lark reads otherwise."""
        code = match[1] or match[2] or match[3]
        if code is None:
            return match[0]
        character = chr(int(code, 16))
        special = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
        return special.get(character) or ("\\" + character if character in "[]" else character)

    return gbnf_to_lark(_ESCAPE.sub(literal, gbnf))
