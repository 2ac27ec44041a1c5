"""The meaning of each tensor and sampling parameter, for the page of the tensor contract.

`tests/docs/test_reference.py` checks that nothing is missing here, and nothing left over.
"""

from __future__ import annotations

from collections.abc import Mapping

INPUTS: Mapping[str, str] = {
    "text_input": "The prompt. Required unless an input marked * is given.",
    "messages": "* A JSON list of chat messages, as OpenAI's API has them, for the chat template.",
    "prompt_token_ids": "* The prompt as token ids.",
    "in_reasoning": "Whether `prompt_token_ids` end inside of a block of reasoning.",
    "tools": "A JSON list of OpenAI's tools, for the chat template.",
    "chat_template_options": "A JSON object of options for the chat template.",
    "add_special_tokens": "Add special tokens to `text_input`, as the tokenizer does. Default true.",
    "stream": "Send a response for each event, rather than one for the whole answer.",
    "sampling_parameters": "A JSON object, see [sampling parameters](#sampling-parameters).",
    "exclude_input_in_output": "Leave the prompt out of `text_output`.",
    "return_finish_reason": "Return `finish_reason`.",
    "return_num_input_tokens": "Return `num_input_tokens`.",
    "return_num_output_tokens": "Return `num_output_tokens`.",
    "return_logprobs": "Return `logprobs`.",
    "return_prompt_logprobs": "Return `prompt_logprobs`.",
    "return_cumulative_logprob": "Return `cumulative_logprob`.",
    "return_token_ids": "Return `token_ids`.",
    "return_text_offsets": "Return `text_offsets`.",
    "return_prompt_token_ids": "Return `prompt_token_ids`.",
    "return_in_reasoning": "Return `in_reasoning`.",
    "return_queue_depth": "Return `queue_depth`.",
    "return_queue_wait_ms": "Return `queue_wait_ms`.",
    "resume_token_ids": "Tokens of the answer that were delivered before: it continues after them.",
    "priority": "The class of the request: `high`, `normal` (absent: the same) or `low`.",
    "caller": "Whose request it is: 1 to 64 printable characters. Slots are shared fairly among callers.",
    "first_token_timeout_ms": "The time in which the first token must come, from the request's arrival.",
    "timeout_ms": "The time in which the whole answer must come.",
    "request_kind": "What is asked for, see [kinds of requests](#kinds-of-requests). Absent: `generate`.",
    "cancel_id": "With `cancel`: the id of the requests that are to be ended.",
    "target": "With `attributions`: the text that is explained. Absent: what is generated.",
}

OUTPUTS: Mapping[str, str] = {
    "text_output": "The text, or the JSON of a request that asks for something else.",
    "finish_reason": '"stop" or "length"; "None" before the end.',
    "num_input_tokens": "Tokens of the prompt.",
    "num_output_tokens": "Tokens of this response, not of the whole answer.",
    "logprobs": "A JSON list with one entry per token.",
    "prompt_logprobs": "The same for the prompt's tokens, once; null for the first token.",
    "cumulative_logprob": "The sum of the log probabilities of the answer so far.",
    "token_ids": "The tokens of this response.",
    "text_offsets": "One per token: the number of generated characters before the text that it "
    "begins or continues, those of a stop string among them.",
    "prompt_token_ids": "The prompt's token ids, in the first response.",
    "in_reasoning": "Whether the prompt ends inside of a block of reasoning, in the first response.",
    "queue_depth": "How many sequences waited when the request came, in the first response.",
    "queue_wait_ms": "How long the request waited for a slot, in the first response.",
}

UPSTREAM = frozenset(
    {
        "text_input",
        "stream",
        "sampling_parameters",
        "exclude_input_in_output",
        "return_finish_reason",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "return_logprobs",
        "return_cumulative_logprob",
        "text_output",
        "finish_reason",
        "num_input_tokens",
        "num_output_tokens",
        "logprobs",
        "cumulative_logprob",
    }
)
"""The tensors of NVIDIA's vLLM backend; the others are ours."""

ENCODER_INPUTS: Mapping[str, str] = {
    "text_input": "The texts. Required unless an input marked * is given.",
    "input_ids": "* Token ids, those of all rows one after the other.",
    "input_lengths": "The length of each row of `input_ids`. Without it, there is one row.",
    "truncate": "Cut texts at the model's context, which are refused otherwise.",
    "truncate_tokens": "Cut texts at this number of tokens.",
    "request_kind": "What is asked for: `embed` (absent: the same), `describe` or `cancel`.",
    "cancel_id": "With `cancel`: the id of the requests that are to be ended.",
}

ENCODER_OUTPUTS: Mapping[str, str] = {
    "num_input_tokens": "Tokens of each text.",
    "text_output": "The JSON of `describe` and `cancel`.",
    "embedding": "A row for each text: [texts, dimension]. Of an encoder.",
    "label": "The most probable label of each text. Of a classifier.",
    "score": "Its probability; of a regression, its value. Of a classifier.",
}

KINDS: Mapping[str, str] = {
    "generate": "Continue the prompt.",
    "embed": "Return a row for each text. Encoders and classifiers only.",
    "describe": "Answer with the model's facts and gauges, as JSON. Needs no prompt.",
    "metrics": "Answer with the engine's own metrics, in Prometheus' format. Needs no prompt.",
    "cancel": "End the requests whose id is `cancel_id`. Answers with their number.",
    "tokenize": "Answer with the prompt's token ids and texts, as JSON; with "
    "`return_prompt_token_ids`, with the outputs `prompt_token_ids` and `in_reasoning` alone.",
    "detokenize": "Answer with the text of `prompt_token_ids`.",
    "tokenizer_info": "Answer with the tokenizer's properties, as JSON. Needs no prompt.",
    "attributions": "Answer with what each token of `text_input` adds to `target`, as JSON.",
    "profile": "Answer with a profiler's trace of the generation, gzipped.",
}
