"""The gateway's side of the tensor contract, against the models' side in `backends.contract`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from backends.contract import kinds, names
from backends.contract.kinds import RequestKind
from backends.contract.requests import GenerationRequest, decode_request
from backends.contract.responses import (
    Logprob,
    ResponseChunk,
    encode_response,
    prompt_logprobs_json,
)
from backends.contract.scheduling import Priority, Scheduling
from backends.contract.tensors import INPUTS, OUTPUTS, flag, text
from control_plane.errors import EngineFailed
from control_plane.inference.prompts import Chat, Prompt, Text, TokenIds
from control_plane.inference.requests import (
    Attribute,
    Describe,
    DescribeTokenizer,
    Detokenize,
    Encode,
    Generate,
    InferenceRequest,
    Profile,
    ReadMetrics,
    Tokenize,
)
from control_plane.inference.responses import Delta, Tokens
from control_plane.triton import codec
from tests.support.wire import inputs_of, response_of, text_response

MESSAGES = [{"role": "user", "content": "Grüße 🙂"}]
ALWAYS = {
    *(names.FINISH_REASON, names.NUM_OUTPUT_TOKENS),
    *(names.QUEUE_DEPTH, names.QUEUE_WAIT_MS),
}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def inputs(request: InferenceRequest[Any]) -> dict[str, Any]:
    return inputs_of(codec.encode(request, "id.1"), INPUTS)


def generation(prompt: Prompt = "Hi", **values: Any) -> GenerationRequest:  # noqa: ANN401
    """Return what the engine decodes of a `Generate`."""
    sampling = values.pop("sampling", {"max_tokens": 5})
    return decode_request(inputs(Generate("demo", "req_1", prompt, sampling, **values)))


def kind(request: InferenceRequest[Any]) -> RequestKind:
    return kinds.kind_of(inputs(request), default=RequestKind.GENERATE, known=RequestKind)


def decoded(request: InferenceRequest[Any], answer: str | bytes) -> Any:  # noqa: ANN401
    return codec.decoder(request)(text_response(answer))


# --- generations --------------------------------------------------------------------------------


def test_a_message_names_its_model_and_has_its_own_id() -> None:
    message = codec.encode(Generate("demo", "req_1", "Hi", {}), "req_1.f00")
    assert (message.model_name, message.id) == ("demo", "req_1.f00")


def test_ids_on_the_wire_differ_for_equal_request_ids() -> None:
    ids = {codec.unique_id("req_1") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(id_.startswith("req_1.") for id_ in ids)


def test_a_text_prompt_is_decoded_as_it_was() -> None:
    request = generation("Grüße 🙂\0")
    assert request.prompt == "Grüße 🙂\0"
    assert request.prompt_input == names.TEXT_INPUT
    assert request.add_special_tokens is None
    assert (request.stream, request.prepend_input, request.resume_token_ids) == (False, False, ())


@pytest.mark.parametrize(("adds", "expected"), [(True, None), (False, False)])
def test_a_text_says_only_that_it_wants_no_special_tokens(
    adds: bool, expected: bool | None
) -> None:
    request = generation(Text("Hi", add_special_tokens=adds))
    assert (request.prompt, request.add_special_tokens) == ("Hi", expected)


@pytest.mark.parametrize("in_reasoning", [True, False])
def test_token_ids_keep_whether_they_end_in_reasoning(in_reasoning: bool) -> None:
    request = generation(TokenIds([0, 7, 2**31 - 1], in_reasoning))
    assert request.prompt_token_ids == (0, 7, 2**31 - 1)
    assert request.in_reasoning is in_reasoning


def test_a_list_of_messages_is_a_chat() -> None:
    request = generation(MESSAGES)
    assert request.messages is not None
    assert request.messages[0]["content"] == "Grüße 🙂"
    assert (request.tools, request.add_special_tokens) == (None, None)
    assert names.CHAT_TEMPLATE_OPTIONS not in inputs(Generate("demo", "1", MESSAGES, {}))


def test_a_chat_has_its_tools_and_template_options() -> None:
    options = {"add_generation_prompt": False, "template_kwargs": {"effort": "low"}}
    request = generation(Chat(MESSAGES, [TOOL], options, add_special_tokens=True))
    assert request.tools == [TOOL]
    assert request.chat_options.add_generation_prompt is False
    assert request.chat_options.template_kwargs == {"effort": "low"}
    assert request.add_special_tokens is True


def test_sampling_parameters_are_decoded_by_name() -> None:
    request = generation(sampling={"max_tokens": 9, "temperature": 0.5, "seed": 3})
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed) == (9, 0.5, 3)


def test_integers_of_any_size_reach_the_engine() -> None:
    schema = {"type": "integer", "maximum": 10**40}
    tensors = inputs(Generate("demo", "1", "Hi", {"guided": {"json": schema}}))
    written = json.loads(text(tensors, names.SAMPLING_PARAMETERS) or "")
    assert written["guided"]["json"] == schema


def test_the_finish_reason_and_the_number_of_tokens_always_return() -> None:
    assert generation().returns == ALWAYS


@pytest.mark.parametrize("output", sorted({spec.name for spec in OUTPUTS[1:]} - ALWAYS))
def test_every_optional_output_can_be_asked_for(output: str) -> None:
    assert generation(returns=[output]).returns == {output} | ALWAYS


def test_a_stream_resumes_after_the_tokens_that_were_delivered() -> None:
    request = generation(stream=True, resume_token_ids=(4, 5))
    assert request.stream
    assert request.resume_token_ids == (4, 5)


@pytest.mark.parametrize(
    "scheduling", [Scheduling(), Scheduling(Priority.HIGH, "4f5a", 1.5, 60.0)], ids=["none", "all"]
)
def test_the_scheduling_arrives(scheduling: Scheduling) -> None:
    assert generation(scheduling=scheduling).scheduling == scheduling


# --- other kinds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Generate("m", "1", "a", {}), RequestKind.GENERATE),
        (Encode("m", "1", "a"), RequestKind.TOKENIZE),
        (Tokenize("m", "1", "a"), RequestKind.TOKENIZE),
        (Detokenize("m", "1", [1]), RequestKind.DETOKENIZE),
        (DescribeTokenizer("m", "1"), RequestKind.TOKENIZER_INFO),
        (Describe("m", "1"), RequestKind.DESCRIBE),
        (ReadMetrics("m", "1"), RequestKind.METRICS),
        (Attribute("m", "1", "a", None), RequestKind.ATTRIBUTIONS),
        (Profile("m", "1", "a", {}), RequestKind.PROFILE),
    ],
)
def test_each_request_has_its_kind(request_: InferenceRequest[Any], expected: RequestKind) -> None:
    assert kind(request_) is expected


def test_tokenizing_asks_for_offsets_only_where_they_are_wanted() -> None:
    wanted = names.return_flag(names.TEXT_OFFSETS)
    assert flag(inputs(Tokenize("m", "1", "ab", offsets=True)), wanted) is True
    assert flag(inputs(Tokenize("m", "1", "ab")), wanted) is None


def test_encoding_asks_for_the_prompts_token_ids_alone() -> None:
    tensors = inputs(Encode("m", "1", MESSAGES))
    assert flag(tensors, names.return_flag(names.PROMPT_TOKEN_IDS)) is True
    assert json.loads(text(tensors, names.MESSAGES) or "") == MESSAGES


def test_detokenizing_sends_token_ids() -> None:
    assert inputs(Detokenize("m", "1", [3, 1]))[names.PROMPT_TOKEN_IDS].tolist() == [3, 1]


@pytest.mark.parametrize("target", ["ü", None])
def test_an_attribution_has_a_target_only_where_one_is_given(target: str | None) -> None:
    tensors = inputs(Attribute("m", "1", "a", target))
    assert text(tensors, names.TEXT_INPUT) == "a"
    assert text(tensors, names.TARGET) == target


def test_a_profile_has_a_prompt_and_sampling_parameters() -> None:
    tensors = inputs(Profile("m", "1", "a", {"max_tokens": 2}))
    assert text(tensors, names.TEXT_INPUT) == "a"
    assert json.loads(text(tensors, names.SAMPLING_PARAMETERS) or "") == {"max_tokens": 2}


def test_a_cancellation_names_the_request_that_is_to_end() -> None:
    message = codec.cancellation("demo", "req_1.f00")
    tensors = inputs_of(message, INPUTS)
    assert message.model_name == "demo"
    assert text(tensors, names.REQUEST_KIND) == RequestKind.CANCEL
    assert kinds.cancel_id(tensors) == "req_1.f00"


# --- responses ----------------------------------------------------------------------------------

ALL_OUTPUTS = frozenset(spec.name for spec in OUTPUTS)


def delta(chunk: ResponseChunk, returns: frozenset[str] = ALL_OUTPUTS) -> Delta:
    response = response_of(encode_response(chunk, returns))
    result: Delta = codec.decoder(Generate("m", "1", "a", {}))(response)
    return result


def test_a_delta_before_the_end_has_no_finish_reason() -> None:
    chunk = ResponseChunk("Grüße 🙂", [1, 2], None, 3)
    assert delta(chunk, frozenset(ALWAYS)) == Delta("Grüße 🙂", 2)


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_last_delta_says_why_the_answer_ended(reason: Any) -> None:  # noqa: ANN401
    assert delta(ResponseChunk("", [], reason, 3)).finish_reason == reason


def test_a_delta_has_all_outputs_that_the_engine_gives() -> None:
    entry = [Logprob(7, -0.5, 1, "a"), Logprob(8, -1.5, 2, "\ufffd", b"\xff")]
    chunk = ResponseChunk(
        "a",
        [7],
        None,
        3,
        logprobs=[entry],
        prompt_logprobs=prompt_logprobs_json([[Logprob(9, -2.0, 1, "b")]]),
        text_offsets=[4],
        prompt_token_ids=[5, 9],
        in_reasoning=True,
    )
    assert delta(chunk) == Delta(
        "a",
        1,
        prompt_tokens=3,
        logprobs=[
            {
                "7": {"logprob": -0.5, "rank": 1, "decoded_token": "a"},
                "8": {"logprob": -1.5, "rank": 2, "decoded_token": "\ufffd", "bytes": [255]},
            }
        ],
        prompt_logprobs=[None, {"9": {"logprob": -2.0, "rank": 1, "decoded_token": "b"}}],
        in_reasoning=True,
        token_ids=(7,),
        text_offsets=(4,),
        prompt_token_ids=(5, 9),
    )


def test_log_probabilities_that_the_engine_does_not_have_are_none() -> None:
    read = delta(ResponseChunk("a", [7], None, 3))
    assert (read.logprobs, read.prompt_logprobs) == (None, None)


def test_a_minus_infinite_log_probability_can_be_read() -> None:
    read = delta(ResponseChunk("a", [7], None, 3, logprobs=[[Logprob(7, -np.inf, 1, "a")]]))
    assert read.logprobs is not None
    assert read.logprobs[0]["7"]["logprob"] == -9999.0


def test_an_encoded_prompt_is_a_prompt_again() -> None:
    tensors = [
        (names.PROMPT_TOKEN_IDS, np.array([1, 2], np.int32)),
        (names.IN_REASONING, np.array([True])),
    ]
    assert codec.decoder(Encode("m", "1", "a"))(response_of(tensors)) == TokenIds((1, 2), True)


def test_tokens_have_offsets_where_the_engine_says_them() -> None:
    request = Tokenize("m", "1", "ab")
    plain: dict[str, Any] = {"token_ids": [1, 2], "texts": ["a", "b"], "tokens": ["x", "y"]}
    assert decoded(request, json.dumps(plain)) == Tokens([1, 2], ["a", "b"], ["x", "y"])
    with_offsets = json.dumps(plain | {"text_offsets": [0, 1]})
    assert decoded(request, with_offsets).offsets == [0, 1]


def test_answers_that_are_texts_objects_and_bytes() -> None:
    assert decoded(Detokenize("m", "1", [1]), "Grüße") == "Grüße"
    assert decoded(ReadMetrics("m", "1"), "") == ""
    assert decoded(DescribeTokenizer("m", "1"), '{"a": 1}') == {"a": 1}
    assert decoded(Attribute("m", "1", "a", None), '{"loss": 2.5}') == {"loss": 2.5}
    assert decoded(Profile("m", "1", "a", {}), b"\x1f\x8b\0") == b"\x1f\x8b\0"


def test_facts_are_read() -> None:
    written = {"backend": "pytorch", "type": "causal_lm", "context_length": 64}
    facts = decoded(Describe("m", "1"), json.dumps(written))
    assert (facts.backend, facts.type, facts.context_length) == ("pytorch", "causal_lm", 64)


@pytest.mark.parametrize("answer", ['{"context_length": "many"}', '{"backend": 5}'])
def test_facts_that_cannot_be_read_are_an_engine_failure(answer: str) -> None:
    with pytest.raises(EngineFailed, match="its description cannot be read"):
        decoded(Describe("m", "1"), answer)
