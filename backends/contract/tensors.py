"""The tensor contract: what every Triad model takes and gives, whichever engine holds it.

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

from backends.contract.errors import InvalidField


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the contract. ``dims`` has -1 where the length varies."""

    name: str
    datatype: Literal["BYTES", "BOOL", "INT32", "UINT32", "FP32"]
    dims: tuple[int, ...] = (1,)
    optional: bool = True


INPUTS = (
    TensorSpec("text_input", "BYTES"),  # the prompt; required unless another is marked *
    TensorSpec("messages", "BYTES"),  # * ours: JSON list of chat messages, as OpenAI's API has them
    TensorSpec("prompt_token_ids", "INT32", (-1,)),  # * ours: the prompt as token ids
    TensorSpec("in_reasoning", "BOOL"),  # ours: whether these end inside of a block of reasoning
    TensorSpec("tools", "BYTES"),  # ours: JSON list of OpenAI's tools, for the chat template
    TensorSpec("chat_template_options", "BYTES"),  # ours: JSON object, see ChatOptions
    TensorSpec("add_special_tokens", "BOOL"),  # ours: to text_input, as the tokenizer does (true)
    TensorSpec("stream", "BOOL"),
    TensorSpec("sampling_parameters", "BYTES"),  # JSON object, see SamplingParameters
    TensorSpec("exclude_input_in_output", "BOOL"),
    TensorSpec("return_finish_reason", "BOOL"),
    TensorSpec("return_num_input_tokens", "BOOL"),
    TensorSpec("return_num_output_tokens", "BOOL"),
    TensorSpec("return_logprobs", "BOOL"),
    TensorSpec("return_prompt_logprobs", "BOOL"),  # ours
    TensorSpec("return_cumulative_logprob", "BOOL"),
    TensorSpec("return_token_ids", "BOOL"),  # ours
    TensorSpec("return_text_offsets", "BOOL"),  # ours
    TensorSpec("return_prompt_token_ids", "BOOL"),  # ours
    TensorSpec("resume_token_ids", "INT32", (-1,)),  # ours: output tokens delivered before
    TensorSpec("describe", "BOOL"),  # * ours: answer with the engine's description, as JSON
    TensorSpec("attributions", "BOOL"),  # ours: answer with what each prompt token adds, as JSON
    TensorSpec("target", "BYTES"),  # ours: the text that is attributed; else what is generated
    TensorSpec("profile", "BOOL"),  # ours: answer with a profiler's trace of the request, gzipped
    TensorSpec("metrics", "BOOL"),  # * ours: answer with the engine's own, in Prometheus' format
    TensorSpec("cancel", "BYTES"),  # * ours: end the requests with this id; answers how many
    # Ours: answer with the prompt's token ids and texts, as JSON; or, with return_prompt_token_ids,
    # with the outputs prompt_token_ids and in_reasoning alone.
    TensorSpec("tokenize", "BOOL"),
    TensorSpec("tokenizer_info", "BOOL"),  # * ours: answer with what the tokenizer is, as JSON
    TensorSpec("detokenize", "BOOL"),  # ours: answer with the text of prompt_token_ids
    TensorSpec("return_in_reasoning", "BOOL"),  # ours
)
OUTPUTS = (
    TensorSpec("text_output", "BYTES", (-1,)),
    TensorSpec("finish_reason", "BYTES", (-1,)),  # "stop" or "length"; "None" before the end
    TensorSpec("num_input_tokens", "UINT32", (1,)),
    TensorSpec("num_output_tokens", "UINT32", (-1,)),  # of this response, not of the request
    TensorSpec("logprobs", "BYTES", (-1,)),  # JSON, a list with one entry a token
    TensorSpec("prompt_logprobs", "BYTES", (-1,)),  # ours: so too, once; null for the first token
    TensorSpec("cumulative_logprob", "FP32", (-1,)),
    TensorSpec("token_ids", "INT32", (-1,)),  # ours
    # Ours, one a token: the generated characters before the text that it begins or goes on with,
    # those of a stop string among them.
    TensorSpec("text_offsets", "INT32", (-1,)),
    TensorSpec("prompt_token_ids", "INT32", (-1,)),  # ours, in the first response
    # Ours, in the first response: whether the prompt ends inside of a block of reasoning.
    TensorSpec("in_reasoning", "BOOL", (1,)),
)


Inputs: TypeAlias = Mapping[str, NDArray[Any]]


def text(inputs: Inputs, name: str) -> str | None:
    if name not in inputs:
        return None
    values = texts(inputs, name)
    if len(values) != 1:
        raise InvalidField(name, f"must hold exactly 1 element, not {len(values)}")
    return values[0]


def texts(inputs: Inputs, name: str) -> list[str]:
    """All elements of a BYTES input; none where it was not given."""
    values = inputs[name].reshape(-1).tolist() if name in inputs else []
    decoded = []
    for number, value in enumerate(values):
        try:
            decoded.append(value.decode() if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError as error:
            where = f"text {number} " if len(values) > 1 else ""
            raise InvalidField(name, f"{where}is not valid UTF-8 at byte {error.start}") from None
    return decoded


def flag(inputs: Inputs, name: str) -> bool | None:
    """A BOOL input, or None where it was not given."""
    if name not in inputs:
        return None
    values = inputs[name].reshape(-1)
    if len(values) != 1:
        raise InvalidField(name, f"must hold exactly 1 element, not {len(values)}")
    return bool(values[0])
