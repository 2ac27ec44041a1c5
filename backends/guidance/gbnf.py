"""A converter of GBNF, llama.cpp's format of grammars, to the form of Lark that llguidance reads.

https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md

llguidance has a converter of its own, whose time grows with the square of the text. As in that one,
a rule that leads to no recursion becomes a terminal: one regular expression, matched as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from backends.guidance.bounds import (
    MAX_NESTING,
    MAX_RULES,
    MAX_WRITTEN_OUT,
    LiteralBudget,
    TooLarge,
    check_steps,
    repeats,
    too_many_parts,
)
from backends.guidance.gbnf_characters import character_set, unescape

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\r\n]*)
    | (?P<newline>\r\n?|\n)
    | (?P<defines>::=)
    | (?P<name>[\w-]+)
    | (?P<literal>"(?:\\.|[^"\\])*")
    | (?P<set>\[\^?(?:\\.|[^\]\\])*\])
    | (?P<repeats>\{\s*(?P<low>\d+)\s*(?:,\s*(?P<high>\d*)\s*)?\})
    | (?P<mark>[()|*+?.])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class Rule:
    """A rule of the grammar.

    ``body``: the parts of a Lark expression, in which a number stands for the rule of that number.
    ``uses``: the numbers of the rules in it, each with the number of groups around it.
    """

    number: int
    body: list[str | int] = field(default_factory=list)
    uses: dict[int, int] = field(default_factory=dict)
    defined: bool = False


def lark_rules(
    gbnf: str, literals: LiteralBudget | None = None, prefix: str = ""
) -> tuple[str, str]:
    """Return the rules as Lark, one a line, and the name of the root rule.

    ``literals`` counts the fixed texts. ``prefix``: small letters that all names begin with. Raises
    ValueError for a wrong grammar, and `TooLarge`.
    """
    reader = _Reader(gbnf, literals or LiteralBudget())
    rules = reader.read()
    undefined = [name for name, rule in rules.items() if not rule.defined]
    if undefined:
        raise ValueError(f"rule `{undefined[0][:64]}` is not defined")
    if "root" not in rules:
        raise ValueError("there is no rule `root`")
    by_number = list(rules.values())
    check_steps(
        rules["root"].number,
        lambda number: ((other, 1 + depth) for other, depth in by_number[number].uses.items()),
        "a grammar",
    )
    terminals = _terminals(by_number, rules["root"].number)
    names = [
        f"{prefix}t{n}".upper() if n in terminals else f"{prefix}r{n}"
        for n in range(len(by_number))
    ]
    lines = [
        f"{names[rule.number]}: "
        + " ".join(part if isinstance(part, str) else names[part] for part in rule.body)
        for rule in by_number
    ]
    return "\n".join(lines) + "\n", names[rules["root"].number]


def _terminals(rules: list[Rule], root: int) -> set[int]:
    """Return the numbers of the rules that use terminals alone. The root is never one of them."""
    users: list[list[int]] = [[] for _ in rules]
    for rule in rules:
        for other in rule.uses:
            users[other].append(rule.number)
    waits_for = [len(rule.uses) for rule in rules]
    ready = [rule.number for rule in rules if not rule.uses]
    terminals: set[int] = set()
    while ready:
        number = ready.pop()
        if number == root:
            continue
        terminals.add(number)
        for user in users[number]:
            waits_for[user] -= 1
            if not waits_for[user]:
                ready.append(user)
    return terminals


class _Reader:
    """A recursive-descent parser of GBNF, which checks sizes while it reads the text once."""

    def __init__(self, text: str, literals: LiteralBudget) -> None:
        self._text = text
        self._literals = literals
        self._tokens = list(self._scan())
        self._at = 0
        self._rules: dict[str, Rule] = {}

    def read(self) -> dict[str, Rule]:
        """Return all rules by name, used but undefined ones included. Raises ValueError."""
        while self._skip_newlines() is not None:
            name = self._expect("name")
            rule = self._rule(name)
            rule.uses.clear()  # The last definition of a name counts.
            self._expect("defines")
            self._skip_newlines()
            rule.body, _ = self._alternatives(rule, 0)
            rule.defined = True
            if self._next is not None and self._next["newline"] is None:
                raise self._unexpected()
        return self._rules

    def _scan(self) -> Iterator[re.Match[str]]:
        at = 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise ValueError(self._cannot_be_read(at))
            at = found.end()
            if found["space"] is None:
                yield found

    def _cannot_be_read(self, at: int) -> str:
        line = self._text.count("\n", 0, at) + 1
        return f"line {line}, at `{self._text[at : at + 20]}`"

    def _unexpected(self) -> ValueError:
        at = len(self._text) if self._next is None else self._next.start()
        return ValueError(self._cannot_be_read(at))

    @property
    def _next(self) -> re.Match[str] | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _advance(self) -> None:
        self._at += 1

    def _skip_newlines(self) -> re.Match[str] | None:
        while self._next is not None and self._next["newline"] is not None:
            self._advance()
        return self._next

    def _expect(self, kind: str) -> str:
        if self._next is None or self._next[kind] is None:
            raise self._unexpected()
        text = self._next[0]
        self._advance()
        return text

    def _rule(self, name: str) -> Rule:
        if name not in self._rules:
            if len(self._rules) == MAX_RULES:
                raise TooLarge(f"must have a grammar of at most {MAX_RULES} rules")
            self._rules[name] = Rule(len(self._rules))
        return self._rules[name]

    def _alternatives(self, rule: Rule, depth: int) -> tuple[list[str | int], int]:
        """Read up to the end of the rule or of the group, with ``depth`` groups open.

        Return the Lark expression, and the number of its parts with repetitions written out.
        """
        if depth > MAX_NESTING:
            raise TooLarge(f"must have a grammar nested at most {MAX_NESTING} levels deep")
        body, size = self._sequence(rule, depth)
        while self._at_bar(depth):
            self._advance()
            self._skip_newlines()
            more, more_size = self._sequence(rule, depth)
            body += ["|", *more]
            size += more_size
        return body, size

    def _at_bar(self, depth: int) -> bool:
        """Return True before a bar, even if it begins the next line. (llama.cpp takes one only at
        the end of a line.)"""
        before = self._at
        token = self._skip_newlines()
        if token is not None and token[0] == "|":
            return True
        if not depth:
            self._at = before
        return False

    def _sequence(self, rule: Rule, depth: int) -> tuple[list[str | int], int]:
        body: list[str | int] = []
        size = 0
        while True:
            if depth:
                self._skip_newlines()
            element, element_size = self._element(rule, depth)
            if not element:
                return body or ['""'], size
            element, element_size = self._repetitions(element, element_size)
            body += element
            size += element_size
            if size > MAX_WRITTEN_OUT:
                raise TooLarge(too_many_parts("a rule"))

    def _element(self, rule: Rule, depth: int) -> tuple[list[str | int], int]:
        """Return the next element and its number of parts, or [] where the sequence has ended."""
        token = self._next
        if token is None:
            return [], 0
        part: str | int
        size = 1
        if token["name"] is not None:
            part = self._rule(token[0]).number
            rule.uses[part] = max(rule.uses.get(part, 0), depth)
        elif token["literal"] is not None:
            part, size = self._literal(token[0][1:-1])
        elif token["set"] is not None:
            part = character_set(token[0])
        elif token[0] == ".":
            part = "/(?s:.)/"
        elif token[0] == "(":
            return self._group(rule, depth)
        else:
            return [], 0
        self._advance()
        return [part], size

    def _group(self, rule: Rule, depth: int) -> tuple[list[str | int], int]:
        self._advance()
        body, size = self._alternatives(rule, depth + 1)
        if self._next is None or self._next[0] != ")":
            raise self._unexpected()
        self._advance()
        return ["(", *body, ")"], size

    def _literal(self, spelled: str) -> tuple[str, int]:
        text = unescape(spelled)
        self._literals.add(text)
        return json.dumps(text, ensure_ascii=False), len(text)

    def _repetitions(self, element: list[str | int], size: int) -> tuple[list[str | int], int]:
        marks = 0
        while (token := self._next) is not None:
            if token["repeats"] is not None:
                low, high = token["low"], token["high"]
                if high is None:
                    high = low
                size *= repeats(low, high)
                if high and not int(high):
                    element, mark = ['""'], ""
                else:
                    mark = f"{{{low},{high}}}"
            elif token[0] in ("*", "+", "?"):
                mark = token[0]
            else:
                break
            marks += 1
            if marks > MAX_NESTING:
                raise TooLarge(f"must have at most {MAX_NESTING} repetitions of one another")
            element = [*(["(", *element, ")"] if marks > 1 else element), mark]
            self._advance()
        return element, size
