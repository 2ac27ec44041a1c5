"""What was asked for, as a grammar in llguidance's own form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput
from backends.guidance.bounds import MAX_LITERAL, Literals, TooLarge, check_pattern
from backends.guidance.calls import Calls
from backends.guidance.gbnf import lark_rules
from backends.guidance.json_schema import OPTIONS, exact_schema, finished


def lark_grammar(
    guided: StructuredOutput,
    special: Mapping[str, int],
    longest_literal: int = MAX_LITERAL,
    options: Mapping[str, Any] = OPTIONS,
) -> str:
    """In Lark's form, as llguidance reads it. ``special``: the ids of special tokens, by name.
    ``longest_literal``: characters that the model's context has room for. ``options``: of
    llguidance, for JSON.

    Raises `InvalidField` for what cannot be a grammar; the grammar may still prove wrong.
    """
    literals = Literals(longest_literal)
    rules, names = "", []
    for number, form in enumerate(guided.forms):
        names.append(f"form{number}")
        with _errors_named(form):
            rules += _rules(form, names[-1], special, literals, options)
    return f"start: {' | '.join(names)}\n{rules}"


@contextmanager
def _errors_named(guided: StructuredOutput) -> Iterator[None]:
    """The converters raise plain exceptions, and go as deep as what they convert."""
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
    """A library's message in one line, without places in a grammar that nobody has seen."""
    first = _EXCERPT.split(str(error).replace("<non-verbose/>", ""), maxsplit=1)[0]
    text = " ".join(_PLACE.sub("", first.strip()).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


def _rules(
    guided: StructuredOutput,
    name: str,
    special: Mapping[str, int],
    literals: Literals,
    options: Mapping[str, Any],
) -> str:
    """Lark, whose rule ``name`` is the text."""
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
        return Calls.of(guided, literals).rules(name, special, options)
    schema = exact_schema(guided.given_as, text or '{"type": "object"}', literals)
    # As text: what a converter makes of Python's numbers is not all of JSON's.
    return f"{name}: %json {finished(schema, options)}\n"


def _in_slashes(pattern: str) -> str:
    from llguidance import LLMatcher

    grammar = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]["lark_grammar"]
    return str(grammar).removeprefix("start: /").removesuffix("/")
