"""Grammar rules for tool calls, in the formats in which chat templates have models write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput, describes_object
from backends.guidance.bounds import LiteralBudget, TooLarge
from backends.guidance.json_schema import check_schema, guidance_json, plain_schema
from backends.guidance.references import Schema

_NEWLINE = '"\\n"'


@dataclass(frozen=True, slots=True)
class ToolCallGrammar:
    """The calls that a model may write.

    ``format``: the format's name in `backends.text.chat_format`, or ``json``. ``parallel``: several
    calls are allowed. ``parameters``: a plain schema for each function, by the function's name,
    whose references point into ``$defs`` of an enclosing schema, under the function's number.
    """

    format: str
    parallel: bool
    parameters: Mapping[str, Schema]

    @classmethod
    def of(cls, guided: StructuredOutput, literals: LiteralBudget) -> ToolCallGrammar:
        """Return the calls that ``guided``, of the kind ``tool_calls``, allows.

        Names and fixed texts are counted in ``literals``. Raises `InvalidField`.
        """
        value = json.loads(str(guided.value))
        parameters = {}
        for number, tool in enumerate(value["tools"]):
            try:
                schema = plain_schema(describes_object(tool["parameters"]), f"/$defs/{number}")
                literals.add(tool["name"])
                check_schema("", schema, literals)
            except (InvalidField, TooLarge, ValueError) as error:
                problem = error.problem if isinstance(error, InvalidField) else str(error)
                raise InvalidField(guided.given_as, f"tools[{number}] {problem}") from error
            parameters[tool["name"]] = schema
        return cls(value.get("format", "json"), value.get("parallel", True), parameters)

    def schema(self, arguments: str, *, listed: bool) -> Schema:
        """Return the JSON schema of a call or, if ``listed``, of a list of calls.

        ``arguments``: the key under which a call has its arguments.
        """
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, arguments: {"$ref": f"#/$defs/{number}"}},
                "required": ["name", arguments],
                "additionalProperties": False,
            }
            for number, name in enumerate(self.parameters)
        ]
        call: Schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if listed:
            call = {"type": "array", "items": call, "minItems": 1}
            if not self.parallel:
                call["maxItems"] = 1
        definitions = {str(n): schema for n, schema in enumerate(self.parameters.values())}
        return call | {"$defs": definitions}

    def rules(self, name: str, special: Mapping[str, int], options: Mapping[str, Any]) -> str:
        """Return Lark rules, of which the rule ``name`` matches all of the calls.

        ``special``: the ids of special tokens, by their text. ``options``: llguidance's options for
        JSON.
        """
        rules = _Rules(self, name, special, options)
        if self.format == "json":
            return f"{name}: {rules.json(self.schema('parameters', listed=True))}\n"
        if self.format == "hermes":
            return rules.hermes()
        if self.format == "llama3_json":
            return rules.llama3()
        return rules.mistral()


@dataclass(frozen=True, slots=True)
class _Rules:
    """A writer of the Lark rules of ``calls``, one method for each format."""

    calls: ToolCallGrammar
    name: str
    special: Mapping[str, int]
    options: Mapping[str, Any]

    def marker(self, text: str) -> str:
        """Return a marker as a token, if it is a special token, and else as text."""
        return f"<[{self.special[text]}]>" if text in self.special else json.dumps(text)

    def json(self, schema: Schema) -> str:
        """Return a Lark expression that matches JSON of this schema."""
        return f"%json {guidance_json(schema, self.options)}"

    def repeated(self, first: str, further: str) -> str:
        """Return an expression for one call, with ``further`` ones if calls may be parallel."""
        return f"{first} ({further})*" if self.calls.parallel else first

    def hermes(self) -> str:
        """Return the rules of objects between ``<tool_call>`` and ``</tool_call>``."""
        name = self.name
        begin, end = self.marker("<tool_call>"), self.marker("</tool_call>")
        return (
            f"{name}: {self.repeated(f'{name}_call', f'{_NEWLINE} {name}_call')}\n"
            f"{name}_call: {begin} {_NEWLINE}? {name}_json {_NEWLINE}? {end}\n"
            f"{name}_json: {self.json(self.calls.schema('arguments', listed=False))}\n"
        )

    def llama3(self) -> str:
        """Return the rules of objects with semicolons between, perhaps after a python tag."""
        name = self.name
        calls = self.repeated(f"{name}_call", f'";" " "? {name}_call')
        return (
            f"{name}: {self.marker('<|python_tag|>')}? {calls}\n"
            f"{name}_call: {self.json(self.calls.schema('parameters', listed=False))}\n"
        )

    def mistral(self) -> str:
        """Return the rules of a list after ``[TOOL_CALLS]``; where the tokenizer has the token
        ``[ARGS]``, a function's name, that token and the arguments are an alternative."""
        name, begin = self.name, self.marker("[TOOL_CALLS]")
        rules = f"{name}_list: {self.json(self.calls.schema('arguments', listed=True))}\n"
        if "[ARGS]" not in self.special:
            return f'{name}: {begin} " "? {name}_list\n{rules}'
        named = " | ".join(
            f"{json.dumps(function)} {self.marker('[ARGS]')} {name}_{number}"
            for number, function in enumerate(self.calls.parameters)
        )
        calls = self.repeated(f"{begin} {name}_named", f"{begin} {name}_named")
        rules += f'{name}: {begin} " "? {name}_list | {calls}\n{name}_named: {named}\n'
        for number, schema in enumerate(self.calls.parameters.values()):
            alone = {"$ref": f"#/$defs/{number}", "$defs": {str(number): schema}}
            rules += f"{name}_{number}: {self.json(alone)}\n"
        return rules
