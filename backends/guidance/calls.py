"""Calls of functions, as chat templates have models write them, as rules of a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput, describes_object
from backends.guidance.bounds import Literals, TooLarge
from backends.guidance.json_schema import check_schema, finished, plain_schema
from backends.guidance.references import Schema

NEWLINE = '"\\n"'


@dataclass(frozen=True, slots=True)
class Calls:
    """``parameters``: of each function by its name, plain schemas that refer to themselves in
    ``$defs`` of another, under the function's number."""

    format: str
    parallel: bool
    parameters: Mapping[str, Schema]

    @classmethod
    def of(cls, guided: StructuredOutput, literals: Literals) -> Calls:
        """Raises `InvalidField`."""
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
        """Of a call, or of a list of calls. ``arguments``: the key that they have."""
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
        """Lark, whose rule ``name`` is all of the calls. ``special``: ids of special tokens."""

        def mark(text: str) -> str:
            return f"<[{special[text]}]>" if text in special else json.dumps(text)

        def embedded(schema: Schema) -> str:
            return f"%json {finished(schema, options)}"

        def all_of(first: str, further: str) -> str:
            return f"{first} ({further})*" if self.parallel else first

        if self.format == "json":
            return f"{name}: {embedded(self.schema('parameters', listed=True))}\n"
        if self.format == "hermes":
            begin, end = mark("<tool_call>"), mark("</tool_call>")
            return (
                f"{name}: {all_of(f'{name}_call', f'{NEWLINE} {name}_call')}\n"
                f"{name}_call: {begin} {NEWLINE}? {name}_json {NEWLINE}? {end}\n"
                f"{name}_json: {embedded(self.schema('arguments', listed=False))}\n"
            )
        if self.format == "llama3_json":
            calls = all_of(f"{name}_call", f'";" " "? {name}_call')
            return (
                f"{name}: {mark('<|python_tag|>')}? {calls}\n"
                f"{name}_call: {embedded(self.schema('parameters', listed=False))}\n"
            )
        begin = mark("[TOOL_CALLS]")
        rules = f"{name}_list: {embedded(self.schema('arguments', listed=True))}\n"
        if "[ARGS]" not in special:
            return f'{name}: {begin} " "? {name}_list\n{rules}'
        named = " | ".join(
            f"{json.dumps(function)} {mark('[ARGS]')} {name}_{number}"
            for number, function in enumerate(self.parameters)
        )
        calls = all_of(f"{begin} {name}_named", f"{begin} {name}_named")
        rules += f'{name}: {begin} " "? {name}_list | {calls}\n{name}_named: {named}\n'
        for number, schema in enumerate(self.parameters.values()):
            alone = {"$ref": f"#/$defs/{number}", "$defs": {str(number): schema}}
            rules += f"{name}_{number}: {embedded(alone)}\n"
        return rules
