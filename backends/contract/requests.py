"""Generation requests: input tensors become one object."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.contract.chat import ChatOptions, Message, Tool, messages_from_json, tools_from_json
from backends.contract.errors import InvalidField
from backends.contract.sampling import SamplingParameters
from backends.contract.tensors import OUTPUTS, Inputs, flag, text


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One decoded request. One of ``prompt``, ``messages`` and ``prompt_token_ids`` is set."""

    prompt: str | None
    messages: list[Message] | None
    sampling: SamplingParameters
    stream: bool = False
    prepend_input: bool = False
    resume_token_ids: tuple[int, ...] = ()
    returns: frozenset[str] = field(default_factory=frozenset)  # names of the optional outputs
    prompt_token_ids: tuple[int, ...] | None = None
    in_reasoning: bool = False  # of prompt_token_ids
    tools: list[Tool] | None = None
    chat_options: ChatOptions = field(default_factory=ChatOptions)
    add_special_tokens: bool | None = None  # None: to a text, and not to a chat

    @property
    def prompt_input(self) -> str:
        """The input that the prompt came in."""
        if self.prompt is not None:
            return "text_input"
        return "messages" if self.messages is not None else "prompt_token_ids"


def _prepend_input(inputs: Inputs, stream: bool) -> bool:
    exclude = flag(inputs, "exclude_input_in_output")
    if stream and exclude is False:
        raise InvalidField("exclude_input_in_output", "must be true when streaming")
    return not stream if exclude is None else not exclude


def decode_request(inputs: Inputs, request_parameters: str = "{}") -> GenerationRequest:
    """Input tensors to a request. Raises `InvalidField`.

    ``request_parameters``: the Triton request's parameters as JSON, which hold the sampling
    parameters where ``sampling_parameters`` is not given, as upstream takes them.
    """
    prompt, chat, ids = text(inputs, "text_input"), text(inputs, "messages"), None
    if "prompt_token_ids" in inputs:
        ids = _ids(inputs, "prompt_token_ids")
    if sum(given is not None for given in (prompt, chat, ids)) != 1:
        raise InvalidField("text_input", "or `messages` must be given, and not both")
    if prompt == "":
        raise InvalidField("text_input", "must not be empty")
    stream = bool(flag(inputs, "stream"))
    parameters = text(inputs, "sampling_parameters")
    return GenerationRequest(
        prompt=prompt,
        messages=None if chat is None else messages_from_json(chat),
        sampling=SamplingParameters.from_json(parameters)
        if parameters
        else SamplingParameters.from_request_parameters(request_parameters),
        stream=stream,
        # A chat prompt is made by the template: there is no input text to put before the answer.
        prepend_input=prompt is not None and _prepend_input(inputs, stream),
        resume_token_ids=_ids(inputs, "resume_token_ids"),
        returns=frozenset(spec.name for spec in OUTPUTS[1:] if flag(inputs, f"return_{spec.name}")),
        prompt_token_ids=ids,
        in_reasoning=bool(flag(inputs, "in_reasoning")),
        tools=tools_from_json(text(inputs, "tools")),
        chat_options=ChatOptions.from_json(text(inputs, "chat_template_options")),
        add_special_tokens=flag(inputs, "add_special_tokens"),
    )


def _ids(inputs: Inputs, name: str) -> tuple[int, ...]:
    return tuple(inputs[name].reshape(-1).tolist()) if name in inputs else ()
