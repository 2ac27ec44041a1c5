"""Rules by which the scripted engine replies to a conversation: call a tool, fill a schema, greet.

Values come from what the last message has: its first number, its first quoted text. That is enough
for clients' own test suites, which ask for a call of ``magic_function(3)`` and expect to get it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from backends.contract.structured import StructuredOutput

_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|`([^`]+)`")
_NUMBER = re.compile(r"-?\d+")

Values = Mapping[str, Any]


def answer(conversation: Values, guided: StructuredOutput | None) -> str:
    """``conversation``: ``messages`` and ``tools``, as a template gets them."""
    last = conversation["messages"][-1]
    if guided is not None:
        return _guided(guided, last["content"])
    tools = conversation.get("tools")
    if tools and last["role"] == "user":
        function = tools[0]["function"]
        arguments = _instance(function.get("parameters") or {}, last["content"], {})
        call = {"name": function["name"], "arguments": arguments}
        return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
    return "Hello! How can I help you today?"


def _guided(guided: StructuredOutput, text: str) -> str:
    guided = guided.forms[0]
    if guided.kind == "tool_calls":
        tool = json.loads(str(guided.value))["tools"][0]
        schema = tool["parameters"]
        arguments = _instance(schema, text, schema.get("$defs", {}))
        return json.dumps([{"name": tool["name"], "parameters": arguments}], ensure_ascii=False)
    if guided.kind == "json":
        schema = json.loads(str(guided.value))
        definitions = schema.get("$defs", {}) if isinstance(schema, dict) else {}
        return json.dumps(_instance(schema, text, definitions), ensure_ascii=False)
    if guided.kind == "json_object":
        return json.dumps({name: text for name in _quoted(text)})
    return str(guided.value[0]) if guided.kind == "choice" else ""


def _quoted(text: str) -> list[str]:
    return ["".join(found) for found in _QUOTED.findall(text)]


def _instance(schema: Any, text: str, definitions: Values) -> Any:  # noqa: ANN401
    """Some instance of a schema: the first branch, all properties, one item."""
    if not isinstance(schema, dict):
        return {}
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _instance(definitions.get(name, {}), text, definitions)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _instance(schema[key][0], text, definitions)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    return _of_type(schema, text, definitions)


def _of_type(schema: Values, text: str, definitions: Values) -> Any:  # noqa: ANN401
    number = int(found[0]) if (found := _NUMBER.search(text)) else 0
    match schema.get("type", "object"):
        case "string":
            return next(iter(_quoted(text)), text)
        case "integer" | "number":
            return number
        case "boolean":
            return True
        case "array":
            return [_instance(schema.get("items", {}), text, definitions)]
        case "null":
            return None
    properties = schema.get("properties", {})
    return {name: _instance(part, text, definitions) for name, part in properties.items()}
