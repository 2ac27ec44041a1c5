"""What was asked for, as a grammar in llguidance's own form.

Of JSON schemas, llguidance refuses the keywords that it does not know how to keep to (``not``,
``if``, ``uniqueItems``, a ``oneOf`` whose parts may overlap, ...) and takes what is no keyword of
JSON Schema as the annotation that it is.
https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from backends.errors import InvalidField
from backends.structured import StructuredOutput

JSON_OPTIONS: Any = {
    # One space at most where JSON has room for some: as much as a model likes would be forever.
    "whitespace_flexible": True,
    "whitespace_pattern": "[ ]?",
    "lenient": False,
    "coerce_one_of": False,
}

MAX_MULTIPLE = 50_000
"""The least common multiple of a schema's ``multipleOf``, in their last digit: it is how many
states counting takes."""


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
    schema = json.loads(value) if guided.kind == "json" else {"type": "object"}
    _check_multiples(guided.given_as, schema)
    if isinstance(schema, bool):
        schema = {} if schema else {"anyOf": []}
    # As text: what the converter makes of Python's numbers is not all of JSON's.
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)


def _check_multiples(field: str, schema: object) -> None:
    steps = [
        int("".join(map(str, Decimal(str(step)).as_tuple().digits))) for step in _multiples(schema)
    ]
    if math.lcm(*filter(None, steps)) > MAX_MULTIPLE:
        raise InvalidField(
            field,
            f"must have a schema whose `multipleOf` have a least common multiple of at most "
            f"{MAX_MULTIPLE}, in units of their last digit",
        )


def _multiples(schema: object) -> Iterator[int | float]:
    if isinstance(schema, list):
        for part in schema:
            yield from _multiples(part)
    elif isinstance(schema, dict):
        for name, part in schema.items():
            if name == "multipleOf" and isinstance(part, int | float):
                yield part
            yield from _multiples(part)


_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


def _lark(gbnf: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    def literal(match: re.Match[str]) -> str:
        """The converter keeps escapes by number as they are, which Lark reads otherwise."""
        code: Any = match[1] or match[2] or match[3]
        if code is None:
            return match[0]
        character = chr(int(code, 16))
        special = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
        return special.get(character) or ("\\" + character if character in "[]" else character)

    return gbnf_to_lark(_ESCAPE.sub(literal, gbnf))
