"""The format in which a model writes tool calls and reasoning, recognised from its chat template.

The model was trained with the template, and has no other description of its formats with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from backends.contract.facts import TOOL_MARKERS, ToolFormat

REASONING_MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The format of a model's chat responses.

    ``template``: the model has a chat template. ``tools``: the format of tool calls, or None where
    the model writes none. ``reasoning``: the markers before and after it, or None.
    ``special_tokens``: a marker is a special token, which is lost where these are skipped.
    """

    template: bool = False
    tools: ToolFormat | None = None
    reasoning: tuple[str, str] | None = None
    special_tokens: bool = False

    @classmethod
    def of(cls, template: str | None, is_special: Callable[[str], bool]) -> ChatFormat:
        """Return the format that a chat template describes.

        ``is_special`` returns True for a text that is one special token.
        """
        if not template:
            return cls()
        tools = _tools(template)
        reasoning = next((pair for pair in REASONING_MARKERS if pair[1] in template), None)
        markers = (*(TOOL_MARKERS[tools] if tools else ()), *(reasoning or ()))
        return cls(True, tools, reasoning, any(map(is_special, markers)))

    def describe(self) -> dict[str, Any]:
        """Return the fields as JSON values, for the facts of a model."""
        return asdict(self)

    def opens_reasoning(self, text: str) -> bool:
        """Return True if a text from the template ends inside of a block of reasoning."""
        if self.reasoning is None:
            return False
        begin, end = self.reasoning
        return text.rfind(begin) > text.rfind(end)

    def begins_with_reasoning(self, response: str) -> bool:
        """Return True if a partial response is an unfinished block of reasoning."""
        if self.reasoning is None:
            return False
        begin, end = self.reasoning
        return response.lstrip().startswith(begin) and end not in response


def _tools(template: str) -> ToolFormat | None:
    if "tools" not in template:
        return None
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<tool_call>" in template:
        # Models that write calls as XML (Qwen3-Coder, GLM-4.5) have the same markers.
        xml = "<function=" in template or "<arg_key>" in template
        return None if xml else "hermes"
    if "<|start_header_id|>" in template and "parameters" in template:
        return "llama3_json"
    return None
