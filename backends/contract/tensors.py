"""The tensor contract: what every Triad model takes and gives, whichever engine runs it.

It is the contract of NVIDIA's vLLM backend (``src/model.py`` and ``src/utils/request.py`` in
triton-inference-server/vllm_backend), so that tools written for that backend work here unchanged,
plus the tensors marked *ours*. Models are decoupled, with ``max_batch_size: 0``.

This module needs numpy and nothing else: the control plane imports it for names and datatypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from backends.contract import names
from backends.contract.errors import InvalidField


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the contract. ``dims`` has -1 where the length varies."""

    name: str
    datatype: Literal["BYTES", "BOOL", "INT32", "UINT32", "FP32"]
    dims: tuple[int, ...] = (1,)
    optional: bool = True


INPUTS = (
    # The prompt; required unless another input is marked *.
    TensorSpec(names.TEXT_INPUT, "BYTES"),
    # * Ours: JSON list of chat messages, as OpenAI's API has them.
    TensorSpec(names.MESSAGES, "BYTES"),
    # * Ours: the prompt as token ids, and whether they end inside of a block of reasoning.
    TensorSpec(names.PROMPT_TOKEN_IDS, "INT32", (-1,)),
    TensorSpec(names.IN_REASONING, "BOOL"),
    # Ours, for the chat template: JSON list of OpenAI's tools; JSON object, see `ChatOptions`.
    TensorSpec(names.TOOLS, "BYTES"),
    TensorSpec(names.CHAT_TEMPLATE_OPTIONS, "BYTES"),
    # Ours: to a text, as the tokenizer does (true).
    TensorSpec(names.ADD_SPECIAL_TOKENS, "BOOL"),
    TensorSpec(names.STREAM, "BOOL"),
    # JSON object, see `SamplingParameters`.
    TensorSpec(names.SAMPLING_PARAMETERS, "BYTES"),
    TensorSpec(names.EXCLUDE_INPUT_IN_OUTPUT, "BOOL"),
    TensorSpec(names.return_flag(names.FINISH_REASON), "BOOL"),
    TensorSpec(names.return_flag(names.NUM_INPUT_TOKENS), "BOOL"),
    TensorSpec(names.return_flag(names.NUM_OUTPUT_TOKENS), "BOOL"),
    TensorSpec(names.return_flag(names.LOGPROBS), "BOOL"),
    TensorSpec(names.return_flag(names.CUMULATIVE_LOGPROB), "BOOL"),
    # Ours, from here on.
    TensorSpec(names.return_flag(names.PROMPT_LOGPROBS), "BOOL"),
    TensorSpec(names.return_flag(names.TOKEN_IDS), "BOOL"),
    TensorSpec(names.return_flag(names.TEXT_OFFSETS), "BOOL"),
    TensorSpec(names.return_flag(names.PROMPT_TOKEN_IDS), "BOOL"),
    TensorSpec(names.return_flag(names.IN_REASONING), "BOOL"),
    TensorSpec(names.return_flag(names.QUEUE_DEPTH), "BOOL"),
    TensorSpec(names.return_flag(names.QUEUE_WAIT_MS), "BOOL"),
    # Output tokens that were delivered before: the answer goes on after them.
    TensorSpec(names.RESUME_TOKEN_IDS, "INT32", (-1,)),
    # How the request is scheduled among others, see `Scheduling`.
    TensorSpec(names.PRIORITY, "BYTES"),
    TensorSpec(names.CALLER, "BYTES"),
    TensorSpec(names.FIRST_TOKEN_TIMEOUT_MS, "INT32"),
    TensorSpec(names.TIMEOUT_MS, "INT32"),
    # What is asked for: a `RequestKind`, of which some need no prompt.
    TensorSpec(names.REQUEST_KIND, "BYTES"),
    # Of `CANCEL`: the id of the requests that are to end.
    TensorSpec(names.CANCEL_ID, "BYTES"),
    # Of `ATTRIBUTIONS`: the text that is attributed; else it is what is generated.
    TensorSpec(names.TARGET, "BYTES"),
)
OUTPUTS = (
    TensorSpec(names.TEXT_OUTPUT, "BYTES", (-1,)),
    # "stop" or "length"; "None" before the end.
    TensorSpec(names.FINISH_REASON, "BYTES", (-1,)),
    TensorSpec(names.NUM_INPUT_TOKENS, "UINT32", (1,)),
    # Of this response, not of the request.
    TensorSpec(names.NUM_OUTPUT_TOKENS, "UINT32", (-1,)),
    # JSON, a list with one entry a token.
    TensorSpec(names.LOGPROBS, "BYTES", (-1,)),
    TensorSpec(names.CUMULATIVE_LOGPROB, "FP32", (-1,)),
    # Ours, from here on. Of the prompt, once: as `logprobs`, with null for the first token.
    TensorSpec(names.PROMPT_LOGPROBS, "BYTES", (-1,)),
    TensorSpec(names.TOKEN_IDS, "INT32", (-1,)),
    # One a token: the generated characters before the text that it begins or goes on with, those of
    # a stop string among them.
    TensorSpec(names.TEXT_OFFSETS, "INT32", (-1,)),
    # In the first response: the prompt, and whether it ends inside of a block of reasoning.
    TensorSpec(names.PROMPT_TOKEN_IDS, "INT32", (-1,)),
    TensorSpec(names.IN_REASONING, "BOOL", (1,)),
    # In the first response: how many sequences waited when the request came, and how long it did.
    TensorSpec(names.QUEUE_DEPTH, "UINT32", (1,)),
    TensorSpec(names.QUEUE_WAIT_MS, "UINT32", (1,)),
)


Inputs: TypeAlias = Mapping[str, NDArray[Any]]


def text(inputs: Inputs, name: str) -> str | None:
    """Return a BYTES input, or None if it was not given. Raises `InvalidField`."""
    if name not in inputs:
        return None
    values = texts(inputs, name)
    if len(values) != 1:
        raise InvalidField(name, f"must hold exactly 1 element, not {len(values)}")
    return values[0]


def texts(inputs: Inputs, name: str) -> list[str]:
    """Return all elements of a BYTES input; none if it was not given. Raises `InvalidField`."""
    values = inputs[name].reshape(-1).tolist() if name in inputs else []
    decoded = []
    for number, value in enumerate(values):
        try:
            decoded.append(value.decode() if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError as error:
            where = f"text {number} " if len(values) > 1 else ""
            raise InvalidField(name, f"{where}is not valid UTF-8 at byte {error.start}") from None
    return decoded


def count(inputs: Inputs, name: str) -> int | None:
    """Return an INT32 input of one positive number, or None if it was not given. Raises
    `InvalidField`."""
    if name not in inputs:
        return None
    values = inputs[name].reshape(-1).tolist()
    if len(values) != 1 or values[0] < 1:
        raise InvalidField(name, "must hold exactly 1 element, at least 1")
    return int(values[0])


def flag(inputs: Inputs, name: str) -> bool | None:
    """Return a BOOL input, or None if it was not given. Raises `InvalidField`."""
    if name not in inputs:
        return None
    values = inputs[name].reshape(-1)
    if len(values) != 1:
        raise InvalidField(name, f"must hold exactly 1 element, not {len(values)}")
    return bool(values[0])
