"""Generation requests: input tensors become one object."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.contract import names
from backends.contract.chat import ChatOptions, Message, Tool, messages_from_json, tools_from_json
from backends.contract.errors import InvalidField
from backends.contract.sampling import SamplingParameters
from backends.contract.scheduling import Scheduling
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
    scheduling: Scheduling = field(default_factory=Scheduling)

    @property
    def prompt_input(self) -> str:
        """Return the name of the input that the prompt came in."""
        if self.prompt is not None:
            return names.TEXT_INPUT
        return names.MESSAGES if self.messages is not None else names.PROMPT_TOKEN_IDS


def _prepend_input(inputs: Inputs, stream: bool) -> bool:
    exclude = flag(inputs, names.EXCLUDE_INPUT_IN_OUTPUT)
    if stream and exclude is False:
        raise InvalidField(names.EXCLUDE_INPUT_IN_OUTPUT, "must be true when streaming")
    return not stream if exclude is None else not exclude


def decode_request(inputs: Inputs, request_parameters: str = "{}") -> GenerationRequest:
    """Return the request that input tensors make. Raises `InvalidField`.

    ``request_parameters``: the Triton request's parameters as JSON, which hold the sampling
    parameters where ``sampling_parameters`` is not given, as upstream takes them.
    """
    prompt, chat, ids = text(inputs, names.TEXT_INPUT), text(inputs, names.MESSAGES), None
    if names.PROMPT_TOKEN_IDS in inputs:
        ids = _ids(inputs, names.PROMPT_TOKEN_IDS)
    if sum(given is not None for given in (prompt, chat, ids)) != 1:
        raise InvalidField(names.TEXT_INPUT, "or `messages` must be given, and not both")
    if prompt == "":
        raise InvalidField(names.TEXT_INPUT, "must not be empty")
    stream = bool(flag(inputs, names.STREAM))
    parameters = text(inputs, names.SAMPLING_PARAMETERS)
    return GenerationRequest(
        prompt=prompt,
        messages=None if chat is None else messages_from_json(chat),
        sampling=SamplingParameters.from_json(parameters)
        if parameters
        else SamplingParameters.from_request_parameters(request_parameters),
        stream=stream,
        # A chat prompt is made by the template: there is no input text to put before the answer.
        prepend_input=prompt is not None and _prepend_input(inputs, stream),
        resume_token_ids=_ids(inputs, names.RESUME_TOKEN_IDS),
        returns=frozenset(
            spec.name for spec in OUTPUTS[1:] if flag(inputs, names.return_flag(spec.name))
        ),
        prompt_token_ids=ids,
        in_reasoning=bool(flag(inputs, names.IN_REASONING)),
        tools=tools_from_json(text(inputs, names.TOOLS)),
        chat_options=ChatOptions.from_json(text(inputs, names.CHAT_TEMPLATE_OPTIONS)),
        add_special_tokens=flag(inputs, names.ADD_SPECIAL_TOKENS),
        scheduling=Scheduling.of(inputs),
    )


def _ids(inputs: Inputs, name: str) -> tuple[int, ...]:
    return tuple(inputs[name].reshape(-1).tolist()) if name in inputs else ()
