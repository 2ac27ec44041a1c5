"""``tools`` and ``tool_choice``: which calls an answer may or must have, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backends.contract.facts import ChatFacts
from backends.contract.structured import StructuredOutput, describes_object
from control_plane.api.openai.chat.messages import Tool
from control_plane.api.openai.chat.parts import AnswerParser
from control_plane.api.openai.chat.reasoning import ReasoningParser, TextParser
from control_plane.api.openai.tools.either_parser import EitherParser
from control_plane.api.openai.tools.parsers import ForcedParser, call_parser, new_call_id
from control_plane.errors import InvalidRequest

Mode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The tools that an answer may call or must call. ``tools``: in the order of the request."""

    mode: Mode
    tools: Sequence[Tool] = ()
    parallel: bool = True

    @classmethod
    def of(cls, tools: Sequence[Tool], choice: object, parallel: bool) -> ToolChoice:
        """Return the tool choice of a request. ``choice``: its field ``tool_choice``. Raises
        `InvalidRequest`."""
        names = [tool.function.name for tool in tools]
        if len(set(names)) < len(names):
            raise InvalidRequest("tools: must have different names", param="tools")
        if choice is not None and not tools and choice != "none":
            raise _invalid("must only be given with `tools`")
        if not tools or choice == "none":
            return cls("none")
        if choice in (None, "auto"):
            return cls("auto", tools, parallel)
        if choice == "required":
            return cls("required", tools, parallel)
        if isinstance(choice, Mapping):
            return cls._of_object(tools, choice, parallel)
        raise _invalid("must be none, auto, required, or an object that names a function")

    @classmethod
    def _of_object(
        cls, tools: Sequence[Tool], choice: Mapping[str, Any], parallel: bool
    ) -> ToolChoice:
        if choice.get("type") == "allowed_tools":
            allowed = choice.get("allowed_tools")
            mode = allowed.get("mode") if isinstance(allowed, Mapping) else None
            if not isinstance(allowed, Mapping) or mode not in ("auto", "required"):
                raise _invalid("must have `allowed_tools` with a `mode`, auto or required")
            listed = allowed.get("tools")
            if not isinstance(listed, list) or not listed:
                raise _invalid("must have a non-empty list of tools in `allowed_tools`")
            names = {_named(tools, entry) for entry in listed}
            return cls(mode, [tool for tool in tools if tool.function.name in names], parallel)
        name = _named(tools, choice)
        return cls("named", [tool for tool in tools if tool.function.name == name], parallel)

    @property
    def forced(self) -> bool:
        return self.mode in ("required", "named")

    def guided(
        self, structure: StructuredOutput | None, tool_format: str | None
    ) -> dict[str, Any] | None:
        """Return the contract's ``guided`` that makes the engine write calls, or calls or else
        text of a ``structure``; None where what the request has is enough. Raises
        `InvalidRequest`."""
        if self.mode == "named":
            return {"json": self._parameters(self.tools[0])}
        if self.mode == "required":
            return self._calls("json")
        if self.mode == "auto" and structure is not None and tool_format is not None:
            return {"any_of": [structure.as_json(), self._calls(tool_format)]}
        return None

    def _calls(self, tool_format: str) -> dict[str, Any]:
        tools = [{"name": t.function.name, "parameters": self._parameters(t)} for t in self.tools]
        return {"tool_calls": {"format": tool_format, "tools": tools, "parallel": self.parallel}}

    def _parameters(self, tool: Tool) -> dict[str, Any]:
        # Without parameters a function takes none.
        parameters = tool.function.parameters or {"properties": {}, "additionalProperties": False}
        try:
            return describes_object(parameters)
        except ValueError as error:
            raise InvalidRequest(
                f"tools: the function `{tool.function.name}` {error}", param="tools"
            ) from None

    def finish_reason(self, reason: str, called: bool) -> str:
        """Return OpenAI's finish reason: a function that the client named is an answer, not the
        model's wish to call."""
        return "tool_calls" if called and reason == "stop" and self.mode != "named" else reason

    def parser(self, chat: ChatFacts, in_reasoning: bool, structured: bool) -> AnswerParser | None:
        """Return the parser of one answer, or None where the answer is text alone.

        ``structured``: the answer's form is given from its first token on, so that no reasoning
        comes before it.
        """
        tool_format, reasoning = chat.tools, chat.reasoning
        most = None if self.parallel else 1
        if self.forced:
            named = self.tools[0].function.name if self.mode == "named" else None
            return ForcedParser(lambda: new_call_id(tool_format), named, most)
        inner: AnswerParser | None = None
        if self.mode == "auto" and tool_format is not None:
            names = [t.function.name for t in self.tools]
            inner = call_parser(tool_format, names, most)
            if structured:
                inner = EitherParser(inner, tool_format, names)
        if reasoning is None or structured:
            return inner
        return ReasoningParser(reasoning, in_reasoning, inner or TextParser())


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest(f"tool_choice: {problem}", param="tool_choice")


def _named(tools: Sequence[Tool], choice: object) -> str:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(choice, Mapping) or choice.get("type") != "function" or name is None:
        raise _invalid("must name functions as {type: function, function: {name}}")
    names = [tool.function.name for tool in tools]
    if name not in names:
        raise _invalid(
            f"names `{str(name)[:64]}`, which is not among the tools: {', '.join(names)}"
        )
    return str(name)
