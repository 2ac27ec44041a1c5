"""Chat requests: messages and tools as OpenAI's API has them, made ready for a chat template.

https://platform.openai.com/docs/api-reference/chat/create

A call's arguments in a conversation are what some model wrote, so they may be no JSON object: cut
off where an answer was, or a list. A template then gets the text as it is. One that can do nothing
with a text gets an object in its place, see `without_texts_for_arguments`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from backends.contract import names
from backends.contract.errors import InvalidField

Message: TypeAlias = dict[str, Any]
Tool: TypeAlias = dict[str, Any]

MAX_DEPTH = 64
"""Objects and lists in one another: templates and JSON writers recurse."""
RAW_ARGUMENTS = "raw_arguments"
"""The key of arguments that are no object, for templates that want one."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a template is applied. ``template_kwargs``: further variables for it to use."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False  # the last message is the beginning of the answer
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | None) -> ChatOptions:
        """Return the options that a request gives. Raises `InvalidField`."""
        name = names.CHAT_TEMPLATE_OPTIONS
        values = {} if text is None else parse_json(name, text)
        if not isinstance(values, dict):
            raise InvalidField(name, "must be a JSON object")
        known = [f.name for f in fields(cls)]
        for key, value in values.items():
            if key not in known:
                raise InvalidField(name, f"`{key[:64]}` is not known; known: {', '.join(known)}")
            if not isinstance(value, dict if key == "template_kwargs" else bool):
                raise InvalidField(name, f"`{key}` has a value of the wrong type")
        return cls(**values)


def parse_json(name: str, text: str) -> Any:  # noqa: ANN401
    """Return the value of an input that is JSON. Raises `InvalidField`."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # not half a surrogate pair
    except RecursionError:
        raise _too_deep(name) from None
    except ValueError as error:
        raise InvalidField(name, f"is not valid JSON: {error}") from None
    if _is_deep(value):
        raise _too_deep(name)
    return value


def _too_deep(name: str) -> InvalidField:
    return InvalidField(
        name, f"must have at most {MAX_DEPTH} objects and lists in one another, arguments included"
    )


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = [v for v in level if isinstance(v, dict | list)]
        if not nested:
            return False
        level = [part for v in nested for part in (v.values() if isinstance(v, dict) else v)]
    return True


def messages_from_json(text: str) -> list[Message]:
    """Return messages as templates take them: text for content, objects for a call's arguments.

    Raises `InvalidField`.
    """
    messages = parse_json(names.MESSAGES, text)
    if not isinstance(messages, list) or not messages:
        raise InvalidField(names.MESSAGES, "must be a non-empty list")
    return [_message(number, message) for number, message in enumerate(messages)]


def _message(number: int, message: object) -> Message:
    where = f"message {number}"
    if not isinstance(message, dict):
        raise InvalidField(names.MESSAGES, f"{where} must be an object")
    if not isinstance(message.get("role"), str):
        raise InvalidField(names.MESSAGES, f"{where} must have a string `role`")
    # A turn without a word in it is one that was cut off, or did nothing but think.
    if message.get("content") in (None, []) and message["role"] != "assistant":
        raise InvalidField(names.MESSAGES, f"{where} must have a `content`")
    # Templates ask whether a key is there: one without a value is not.
    ready = {key: value for key, value in message.items() if value is not None}
    ready["content"] = _content(where, message.get("content"))
    if calls := message.get("tool_calls"):
        if not isinstance(calls, list):
            raise InvalidField(names.MESSAGES, f"{where} must have a list of `tool_calls`")
        ready["tool_calls"] = [_call(where, call) for call in calls]
    else:
        ready.pop("tool_calls", None)
    return ready


def _content(where: str, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidField(
            names.MESSAGES, f"{where} must have text or a list of parts for `content`"
        )
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise InvalidField(names.MESSAGES, f"{where} must have parts of type text only")
        if not isinstance(part.get("text"), str):
            raise InvalidField(names.MESSAGES, f"{where} must have a string `text` in each part")
        texts.append(part["text"])
    return "\n".join(texts)


def _call(where: str, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise InvalidField(
            names.MESSAGES, f"{where} must have a `function` in each of `tool_calls`"
        )
    if not isinstance(function.get("name"), str):
        raise InvalidField(names.MESSAGES, f"{where} must have a string `name` in each `function`")
    arguments = _arguments(where, function.get("arguments"))
    return call | {"function": function | {"arguments": arguments}}


def _arguments(where: str, given: object) -> dict[str, Any] | str:
    """Return an object if there is one: templates write it as JSON, and quote a text."""
    if given is None or isinstance(given, dict):
        return given or {}
    if not isinstance(given, str):
        raise InvalidField(names.MESSAGES, f"{where} must have text or an object for `arguments`")
    try:
        value = json.loads(given) if given.strip() else {}
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep(names.MESSAGES) from None
    except ValueError:
        return given
    if _is_deep(value):
        raise _too_deep(names.MESSAGES)
    if value is None:
        return {}
    return value if isinstance(value, dict) else given


def without_texts_for_arguments(messages: list[Message]) -> list[Message]:
    """Return the messages with ``{"raw_arguments": text}`` for arguments that are no object."""
    return [
        message | {"tool_calls": [_with_object(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    if not isinstance(arguments, str):
        return call
    return call | {"function": call["function"] | {"arguments": {RAW_ARGUMENTS: arguments}}}


def tools_from_json(text: str | None) -> list[Tool] | None:
    """Return the tools of a request, None if there are none. Raises `InvalidField`."""
    tools = None if text is None else parse_json(names.TOOLS, text)
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidField(names.TOOLS, "must be a list of objects")
    for number, tool in enumerate(tools):
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidField(names.TOOLS, f"tool {number} must have a `function` with a `name`")
    return tools or None
