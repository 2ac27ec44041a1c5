"""The grammar of a requested structure, in llguidance's own form of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput
from backends.guidance.bounds import MAX_LITERAL, LiteralBudget, TooLarge, check_pattern
from backends.guidance.calls import ToolCallGrammar
from backends.guidance.gbnf import lark_rules
from backends.guidance.json_schema import OPTIONS, exact_schema, guidance_json


def lark_grammar(
    guided: StructuredOutput,
    special: Mapping[str, int],
    max_literal: int = MAX_LITERAL,
    options: Mapping[str, Any] = OPTIONS,
) -> str:
    """Return the Lark grammar of ``guided``, as llguidance reads it.

    ``special``: the ids of special tokens, by their text. ``max_literal``: the number of characters
    that the model's context has room for. ``options``: llguidance's options for JSON.

    Raises `InvalidField` for what cannot become a grammar. llguidance may still refuse the result.
    """
    literals = LiteralBudget(max_literal)
    rules, names = "", []
    for number, form in enumerate(guided.forms):
        names.append(f"form{number}")
        with _errors_named(form):
            rules += _rules(form, names[-1], special, literals, options)
    return f"start: {' | '.join(names)}\n{rules}"


@contextmanager
def _errors_named(guided: StructuredOutput) -> Iterator[None]:
    """Raise errors of the converters as `InvalidField`. They may raise any exception, and recurse
    as deep as the input is nested."""
    try:
        yield
    except InvalidField:
        raise
    except TooLarge as error:
        raise InvalidField(guided.given_as, str(error)) from error
    except Exception as error:
        raise InvalidField(guided.given_as, f"{_NAMES[guided.kind]} {short(error)}") from None


_NAMES = {
    "json": "has a schema that cannot be read:",
    "json_object": "cannot be read:",
    "regex": "has a pattern that cannot be read:",
    "choice": "has choices that cannot be read:",
    "grammar": "has a grammar that is not GBNF:",
    "tool_calls": "has tools that cannot be read:",
}


_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")
_EXCERPT = re.compile(r"^\s*\d+ \| ", re.MULTILINE)


def short(error: object) -> str:
    """Return a library's message in one line of at most 300 characters, without positions in an
    intermediate grammar, which no client has seen."""
    first = _EXCERPT.split(str(error).replace("<non-verbose/>", ""), maxsplit=1)[0]
    text = " ".join(_PLACE.sub("", first.strip()).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


def _rules(
    guided: StructuredOutput,
    name: str,
    special: Mapping[str, int],
    literals: LiteralBudget,
    options: Mapping[str, Any],
) -> str:
    """Return Lark rules, of which the rule ``name`` matches all of the text."""
    value = guided.value
    if guided.kind == "choice":
        texts = [str(text) for text in value]
        for text in texts:
            literals.add(text)
        choices = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return f"{name}: {name.upper()}\n{name.upper()}: {choices}\n"
    text = str(value)
    if guided.kind == "regex":
        check_pattern(text)
        return f"{name}: /{_in_slashes(text)}/\n"
    if guided.kind == "grammar":
        rules, root = lark_rules(text, literals, f"{name}_")
        return f"{name}: {root}\n{rules}"
    if guided.kind == "tool_calls":
        return ToolCallGrammar.of(guided, literals).rules(name, special, options)
    schema = exact_schema(guided.given_as, text or '{"type": "object"}', literals)
    # The schema is passed as text, because a converter of Python's numbers loses some of JSON's.
    return f"{name}: %json {guidance_json(schema, options)}\n"


def _in_slashes(pattern: str) -> str:
    from llguidance import LLMatcher

    grammar = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]["lark_grammar"]
    return str(grammar).removeprefix("start: /").removesuffix("/")
