"""How a model writes what is not plain text: recognised from its chat template.

The template is what the model was trained with, and its only description that comes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

ToolFormat: TypeAlias = Literal["hermes", "llama3_json", "mistral"]

TOOL_MARKERS: dict[ToolFormat, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3_json": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
}
REASONING_MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """``tools``: how calls are written. ``reasoning``: what stands around it. None: not at all.

    ``special_tokens``: a marker is a special token, and is lost where these are skipped.
    """

    template: bool = False  # there is one
    tools: ToolFormat | None = None
    reasoning: tuple[str, str] | None = None
    special_tokens: bool = False

    @classmethod
    def of(cls, template: str | None, is_special: Callable[[str], bool]) -> ChatFormat:
        """``is_special``: whether a text is one special token."""
        if not template:
            return cls()
        tools = _tools(template)
        reasoning = next((pair for pair in REASONING_MARKERS if pair[1] in template), None)
        markers = (*(TOOL_MARKERS[tools] if tools else ()), *(reasoning or ()))
        return cls(True, tools, reasoning, any(map(is_special, markers)))

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def opens_reasoning(self, text: str) -> bool:
        """Whether a text that the template has written ends inside of a block of reasoning."""
        if self.reasoning is None:
            return False
        begin, end = self.reasoning
        return text.rfind(begin) > text.rfind(end)

    def begins_with_reasoning(self, answer: str) -> bool:
        """Whether what there is of an answer is the beginning of a block of reasoning."""
        if self.reasoning is None:
            return False
        begin, end = self.reasoning
        return answer.lstrip().startswith(begin) and end not in answer


def _tools(template: str) -> ToolFormat | None:
    if "tools" not in template:
        return None
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<tool_call>" in template:
        # Calls as XML (Qwen3-Coder, GLM-4.5) stand between the same markers.
        xml = "<function=" in template or "<arg_key>" in template
        return None if xml else "hermes"
    if "<|start_header_id|>" in template and "parameters" in template:
        return "llama3_json"
    return None
