"""The names of the tensors. Both processes write and read tensors by these names alone."""

from __future__ import annotations

from typing import Final

# Inputs: the prompt, which comes in one of the first three.
TEXT_INPUT: Final = "text_input"
MESSAGES: Final = "messages"
PROMPT_TOKEN_IDS: Final = "prompt_token_ids"  # an output as well
IN_REASONING: Final = "in_reasoning"  # an output as well
TOOLS: Final = "tools"
CHAT_TEMPLATE_OPTIONS: Final = "chat_template_options"
ADD_SPECIAL_TOKENS: Final = "add_special_tokens"

# Inputs: the generation.
STREAM: Final = "stream"
SAMPLING_PARAMETERS: Final = "sampling_parameters"
EXCLUDE_INPUT_IN_OUTPUT: Final = "exclude_input_in_output"
RESUME_TOKEN_IDS: Final = "resume_token_ids"

# Inputs: the scheduling.
PRIORITY: Final = "priority"
CALLER: Final = "caller"
FIRST_TOKEN_TIMEOUT_MS: Final = "first_token_timeout_ms"
TIMEOUT_MS: Final = "timeout_ms"

# Inputs: what is asked for, and what kinds other than a generation need.
REQUEST_KIND: Final = "request_kind"
CANCEL_ID: Final = "cancel_id"
TARGET: Final = "target"

# Outputs.
TEXT_OUTPUT: Final = "text_output"
FINISH_REASON: Final = "finish_reason"
NUM_INPUT_TOKENS: Final = "num_input_tokens"
NUM_OUTPUT_TOKENS: Final = "num_output_tokens"
LOGPROBS: Final = "logprobs"
PROMPT_LOGPROBS: Final = "prompt_logprobs"
CUMULATIVE_LOGPROB: Final = "cumulative_logprob"
TOKEN_IDS: Final = "token_ids"
TEXT_OFFSETS: Final = "text_offsets"
QUEUE_DEPTH: Final = "queue_depth"
QUEUE_WAIT_MS: Final = "queue_wait_ms"

# Of encoders and classifiers alone: inputs, then outputs.
INPUT_IDS: Final = "input_ids"
INPUT_LENGTHS: Final = "input_lengths"
TRUNCATE: Final = "truncate"
TRUNCATE_TOKENS: Final = "truncate_tokens"
EMBEDDING: Final = "embedding"
LABEL: Final = "label"
SCORE: Final = "score"


def return_flag(output: str) -> str:
    """Return the name of the BOOL input that asks for an optional output."""
    return f"return_{output}"
