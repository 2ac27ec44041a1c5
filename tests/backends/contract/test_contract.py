"""Tensors to requests and chunks to tensors, as Triton's Python backend hands them over."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.contract.chat import ChatOptions
from backends.contract.errors import EngineError, InvalidField
from backends.contract.requests import GenerationRequest, decode_request
from backends.contract.responses import Logprob, ResponseChunk, encode_response
from backends.contract.sampling import PARAMETERS, SamplingParameters
from backends.contract.structured import MAX_DEPTH, StructuredOutput
from backends.contract.tensors import INPUTS, OUTPUTS
from backends.sampling_parameters.kinds import Boolean, Integer, Kind, Number

Array = NDArray[Any]

FLAGS_FOR_OUTPUTS = (
    "finish_reason",
    "num_input_tokens",
    "num_output_tokens",
    "logprobs",
    "prompt_logprobs",
    "cumulative_logprob",
    "token_ids",
    "text_offsets",
    "prompt_token_ids",
    "in_reasoning",
    "queue_depth",
    "queue_wait_ms",
)
NUMPY_TYPES = {"BYTES": np.object_, "UINT32": np.uint32, "FP32": np.float32, "INT32": np.int32}
NUMPY_TYPES["BOOL"] = np.bool_


def as_bytes(*values: str | bytes) -> Array:
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    return np.array(raw, dtype=np.object_)


def as_bool(*values: bool) -> Array:
    return np.array(values, dtype=np.bool_)


def decode(**inputs: str | bytes | bool | Array) -> GenerationRequest:
    """Scalars become the one-element arrays that they are in Triton."""
    arrays: dict[str, Array] = {}
    for name, value in inputs.items():
        if isinstance(value, bool):
            arrays[name] = as_bool(value)
        else:
            arrays[name] = as_bytes(value) if isinstance(value, str | bytes) else value
    return decode_request(arrays)


def decode_sampling(**parameters: object) -> SamplingParameters:
    return decode(text_input="hi", sampling_parameters=json.dumps(parameters)).sampling


# --- inputs -------------------------------------------------------------------------------------


def test_a_bare_prompt_gets_the_upstream_defaults() -> None:
    assert decode(text_input="hi") == GenerationRequest(
        prompt="hi",
        messages=None,
        sampling=SamplingParameters(
            max_tokens=16,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            stop=(),
            seed=None,
            ignore_eos=False,
            logprobs=None,
        ),
        stream=False,
        prepend_input=True,
        resume_token_ids=(),
        returns=frozenset(),
    )


@pytest.mark.parametrize("prompt", ["hi", " ", "\0", "Grüße 你好 👩‍👩‍👧 e\u0301", "x" * 100_000])
def test_the_prompt_arrives_unchanged(prompt: str) -> None:
    assert decode(text_input=prompt).prompt == prompt


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_batch_dimension_does_no_harm(shape: tuple[int, ...]) -> None:
    request = decode(text_input=as_bytes("hi").reshape(shape), stream=as_bool(True).reshape(shape))
    assert (request.prompt, request.stream) == ("hi", True)


def test_text_may_come_as_str_instead_of_bytes() -> None:
    assert decode(text_input=np.array(["grün"], dtype=np.object_)).prompt == "grün"


@pytest.mark.parametrize(
    ("stream", "exclude", "prepended"),
    [
        (None, None, True),
        (None, True, False),
        (None, False, True),
        (False, None, True),
        (False, True, False),
        (False, False, True),
        (True, None, False),
        (True, True, False),
    ],
)
def test_when_the_prompt_is_prepended(
    stream: bool | None, exclude: bool | None, prepended: bool
) -> None:
    flags = {"stream": stream, "exclude_input_in_output": exclude}
    given = {name: value for name, value in flags.items() if value is not None}
    request = decode(text_input="hi", **given)
    assert request.prepend_input is prepended
    assert request.stream is bool(stream)


def test_a_stream_cannot_include_the_prompt() -> None:
    with pytest.raises(InvalidField, match=r"^exclude_input_in_output: "):
        decode(text_input="hi", stream=True, exclude_input_in_output=False)


def test_a_chat_never_prepends_its_prompt() -> None:
    messages = '[{"role": "user", "content": "hi"}]'
    assert not decode(messages=messages).prepend_input
    assert not decode(messages=messages, exclude_input_in_output=False).prepend_input


@pytest.mark.parametrize("name", FLAGS_FOR_OUTPUTS)
def test_each_optional_output_is_asked_for_by_its_own_flag(name: str) -> None:
    assert decode(text_input="hi", **{f"return_{name}": True}).returns == {name}
    assert decode(text_input="hi", **{f"return_{name}": False}).returns == frozenset()


def test_every_optional_output_has_a_flag_among_the_inputs() -> None:
    inputs = {spec.name for spec in INPUTS}
    assert {spec.name for spec in OUTPUTS} == {"text_output", *FLAGS_FOR_OUTPUTS}
    assert {f"return_{name}" for name in FLAGS_FOR_OUTPUTS} <= inputs


@pytest.mark.parametrize("ids", [[], [5], [0, 2**31 - 1, 7]])
def test_resume_token_ids_become_python_integers(ids: list[int]) -> None:
    decoded = decode(text_input="hi", resume_token_ids=np.array(ids, np.int32)).resume_token_ids
    assert decoded == tuple(ids)
    assert all(type(id_) is int for id_ in decoded)


def test_messages_are_kept_in_order_with_their_extra_keys() -> None:
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "Grüße 😀", "name": "Ann"},
    ]
    request = decode(messages=json.dumps(messages))
    assert request.messages == messages
    assert request.prompt is None


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        pytest.param({}, "text_input", id="no prompt"),
        pytest.param({"text_input": ""}, "text_input", id="empty prompt"),
        pytest.param({"text_input": "hi", "messages": "[]"}, "text_input", id="both"),
        pytest.param({"text_input": b"ab\xff"}, "text_input", id="prompt not UTF-8"),
        pytest.param({"text_input": as_bytes("a", "b")}, "text_input", id="two prompts"),
        pytest.param({"text_input": as_bytes()}, "text_input", id="no elements"),
        pytest.param({"text_input": "hi", "stream": as_bool()}, "stream", id="no flag"),
        pytest.param({"text_input": "hi", "stream": as_bool(True, True)}, "stream", id="two flags"),
        pytest.param(
            {"text_input": "hi", "return_logprobs": as_bool(True, False)},
            "return_logprobs",
            id="two return flags",
        ),
        pytest.param({"messages": b"\xff"}, "messages", id="messages not UTF-8"),
        pytest.param({"messages": ""}, "messages", id="messages empty"),
        pytest.param({"messages": "hello"}, "messages", id="messages not JSON"),
        pytest.param({"messages": "{}"}, "messages", id="messages an object"),
        pytest.param({"messages": "[]"}, "messages", id="no messages"),
        pytest.param({"messages": '["hi"]'}, "messages", id="message a string"),
        pytest.param({"messages": '[{"role": "user"}]'}, "messages", id="no content"),
        pytest.param({"messages": '[{"content": "hi"}]'}, "messages", id="no role"),
        pytest.param({"messages": '[{"role": 1, "content": "hi"}]'}, "messages", id="role 1"),
        pytest.param({"messages": '[{"role": "u", "content": null}]'}, "messages", id="null"),
    ],
)
def test_invalid_inputs_are_named(inputs: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField, match=f"^{field}: ") as caught:
        decode(**inputs)
    assert caught.value.field == field
    assert caught.value.status == "INVALID_ARG"
    assert isinstance(caught.value, EngineError)


def test_a_wrong_message_is_named_by_its_number() -> None:
    with pytest.raises(InvalidField, match="message 1 must have a `content`"):
        decode(messages='[{"role": "user", "content": "hi"}, {"role": "tool"}]')


def test_a_prompt_may_be_token_ids() -> None:
    request = decode(prompt_token_ids=np.array([3, 5], np.int32))
    assert (request.prompt_token_ids, request.prompt, request.prompt_input) == (
        (3, 5),
        None,
        "prompt_token_ids",
    )
    assert not request.prepend_input
    with pytest.raises(InvalidField, match=r"^text_input: "):
        decode(text_input="hi", prompt_token_ids=np.array([3], np.int32))


def test_tools_and_template_options() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    options = {"continue_final_message": True, "template_kwargs": {"x": 1}}
    request = decode(
        messages='[{"role": "user", "content": "hi"}]',
        tools=json.dumps([tool]),
        chat_template_options=json.dumps(options),
    )
    assert request.tools == [tool]
    assert request.chat_options == ChatOptions(True, True, {"x": 1})


# --- sampling parameters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("max_tokens", 1, 1),
        ("max_tokens", 2**31 - 1, 2**31 - 1),
        ("temperature", 0, 0.0),
        ("temperature", 0.7, 0.7),
        ("temperature", 100, 100.0),
        ("top_p", 1e-9, 1e-9),
        ("top_p", 1, 1.0),
        ("top_p", 0, 1.0),  # and the temperature is 0 then
        ("min_tokens", 0, 0),
        ("min_tokens", 16, 16),  # as many as `max_tokens` at most
        ("allowed_token_ids", [7, 0], (7, 0)),
        ("allowed_token_ids", None, None),
        ("include_stop_str_in_output", True, True),
        # As upstream takes them: numbers and truth values as text, null as absent.
        ("max_tokens", "100", 100),
        ("max_tokens", "16.0", 16),
        ("max_tokens", 16.0, 16),
        ("max_tokens", None, 16),
        ("min_tokens", "3", 3),
        ("temperature", "0.1", 0.1),
        ("temperature", None, 1.0),
        ("top_p", "0.95", 0.95),
        ("top_k", "-1", 0),
        ("seed", "1", 1),
        ("logprobs", "2", 2),
        ("ignore_eos", "true", True),
        ("ignore_eos", "False", False),
        ("ignore_eos", 1, True),
        ("skip_special_tokens", None, True),
        ("stop", None, ()),
        ("logit_bias", '{"5": 1}', ((5, 1.0),)),
        ("top_k", -1, 0),
        ("top_k", 0, 0),
        ("top_k", 1, 1),
        ("top_k", 2**31 - 1, 2**31 - 1),
        ("stop_token_ids", [0, 5], (0, 5)),
        ("skip_special_tokens", False, False),
        ("min_p", 0, 0.0),
        ("min_p", 1, 1.0),
        ("repetition_penalty", 0.01, 0.01),
        ("repetition_penalty", 100, 100.0),
        ("presence_penalty", -2, -2.0),
        ("presence_penalty", 2, 2.0),
        ("frequency_penalty", -2.0, -2.0),
        ("frequency_penalty", 2.0, 2.0),
        ("stop", "\n", ("\n",)),
        ("stop", [], ()),
        ("stop", ["a", "b" * 1024], ("a", "b" * 1024)),
        ("stop", ["x"] * 256, ("x",) * 256),
        ("stop", ["x" * 1024] * 8, ("x" * 1024,) * 8),
        ("seed", 0, 0),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("seed", None, None),
        ("ignore_eos", True, True),
        ("logprobs", 0, 0),
        ("logprobs", 20, 20),
        ("logprobs", None, None),
    ],
)
def test_accepted_values(name: str, value: object, kept: object) -> None:
    decoded = getattr(decode_sampling(**{name: value}), name)
    assert decoded == kept
    assert type(decoded) is type(kept)


NAN, INFINITY = float("nan"), float("inf")
TOOL: dict[str, Any] = {"name": "f", "parameters": {}}
REGEX = {"regex": "a"}
INVALID_VALUES: dict[str, list[object]] = {
    "max_tokens": [0, -1, 2**31, 1.5, True, "x", "1.5", "9" * 5000, "inf", [16]],
    "min_tokens": [-1, 17, 1.5, True, "x", NAN],
    "temperature": [-1e-9, 100.1, NAN, INFINITY, -INFINITY, True, "hot", "nan", [1], 10**400],
    "top_p": [-0.1, 1.0000001, NAN, INFINITY, False, "x", "1.1", {}],
    "top_k": [-2, 2**31, 1.5, NAN, True, "x"],
    "min_p": [-1e-9, 1.0000001, NAN, INFINITY, False, "x"],
    "repetition_penalty": [0, -1, 100.1, NAN, INFINITY, True, "x"],
    "presence_penalty": [-2.0000001, 2.0000001, NAN, INFINITY, True, "x"],
    "frequency_penalty": [-2.0000001, 2.0000001, NAN, -INFINITY, False, "x"],
    "stop": [
        *("", [""], ["a", ""], [1], [None], 1, True, {"a": "b"}, "x" * 1025),
        *(["x"] * 257, ["x" * 1024] * 9),
    ],
    "seed": [-1, 2**63, 1.5, NAN, True, "x"],
    "ignore_eos": [2, "yes", [], 1.5],
    "logprobs": [-1, 21, 1.5, True, "x"],
    "prompt_logprobs": [-1, 21, 1.5, True, "x"],
    "allowed_token_ids": [[], 5, "5", [-1], [2**31], ["5"], [True], [1.5]],
    "logit_bias": [
        *([5], "5", 1, {"a": 1}, {"-1": 1}, {"1.5": 1}, {"5": "1"}, {"5": None}, {"5": True}),
        *({"5": 100.1}, {"5": -101}, {"5": NAN}, {str(i): 1 for i in range(1025)}, {"9" * 30: 1}),
    ],
    "guided": [
        *(1, True, [], {}, "[]", {"xml": "a"}, {"regex": "a", "choice": ["a"]}, {"json": None}),
        *(
            {"json": "{}"},
            {"json": []},
            {"json": {"maximum": INFINITY}},
            {"json": {"": "x" * 2**18}},
        ),
        *({"json_object": False}, {"json_object": 1}, {"regex": ""}, {"regex": "a" * 4097}),
        *({"regex": ["a"]}, {"grammar": ""}, {"grammar": None}, {"grammar": "x" * (2**17 + 1)}),
        *({"choice": []}, {"choice": "ab"}, {"choice": [1]}, {"choice": ["a", ""]}),
        *({"choice": [str(i) for i in range(8193)]}, {"choice": ["x" * 2**16, "y" * 2**17]}),
        *({"tool_calls": []}, {"tool_calls": {}}, {"tool_calls": {"tools": []}}),
        *({"tool_calls": {"tools": tools}} for tools in ([TOOL] * 257, [TOOL | {"x": 1}])),
        {"tool_calls": {"tools": [TOOL | {"parameters": True}]}},
        *(
            {"tool_calls": {"tools": [TOOL], key: value}}
            for key, value in (("format", "xml"), ("format", ["json"]), ("parallel", 1), ("x", 1))
        ),
        *({"any_of": forms} for forms in ([], [REGEX], [REGEX] * 5, [{"xml": ""}] * 2)),
        {"any_of": {}},
        {"any_of": [REGEX, {"any_of": [REGEX, REGEX]}]},
    ],
    "stop_token_ids": [5, "5", [-1], [2**31], ["5"], [True], [1.5], list(range(65))],
    "skip_special_tokens": [2, "no"],
    "include_stop_str_in_output": [2, "no"],
    "lora_name": [1, True, [], {}],
    "cache_salt": [1, True, [], {}, "x" * 1025],
}


def out_of_range(kind: Kind) -> list[object]:
    """Return values that a parameter with a file of its own must refuse."""
    assert isinstance(kind, Integer | Number | Boolean), "list its invalid values by hand"
    if isinstance(kind, Boolean):
        return [2, "no"]
    return [kind.low - 1, kind.high + 1, NAN, INFINITY, True, "x"]


INVALID_VALUES |= {
    name: out_of_range(parameter.kind)
    for name, parameter in PARAMETERS.items()
    if parameter.effect is not None
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}-{str(value)[:12]}-{type(value).__name__}")
        for name, values in INVALID_VALUES.items()
        for value in values
    ],
)
def test_refused_values(name: str, value: object) -> None:
    with pytest.raises(InvalidField, match=f"^{name}: must ") as caught:
        decode_sampling(**{name: value})
    assert caught.value.field == name
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "name", [name for name in INVALID_VALUES if not name.endswith(("stop", "_ids"))]
)
def test_lists_are_no_scalars(name: str) -> None:
    with pytest.raises(InvalidField, match=f"^{name}: must "):
        decode_sampling(**{name: [1]})


def test_every_parameter_has_refused_values() -> None:
    assert INVALID_VALUES.keys() == set(SamplingParameters.__dataclass_fields__)


def test_an_unknown_parameter_is_named_with_the_known_ones() -> None:
    with pytest.raises(InvalidField, match=r"^max_token: .*\bmax_tokens\b.*\btop_p\b"):
        decode_sampling(max_token=2)


def test_the_name_of_an_unknown_parameter_is_echoed_in_part() -> None:
    with pytest.raises(InvalidField) as caught:
        decode_sampling(**{"x" * 10_000: 1})
    assert len(str(caught.value)) < 600


NEUTRAL: dict[str, object] = {"n": 1, "best_of": "1", "use_beam_search": False, "bad_words": []}
NEUTRAL |= {"detokenize": "true", "truncate_prompt_tokens": None, "thinking_token_budget": -1}
NEUTRAL |= {"early_stopping": True, "length_penalty": 0.5, "guided_decoding": None}


def test_upstreams_parameters_are_known_where_they_ask_for_nothing() -> None:
    assert decode_sampling(**NEUTRAL) == SamplingParameters()


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 2), ("n", True), ("best_of", "2"), ("use_beam_search", True), ("bad_words", ["a"])],
)
def test_what_cannot_be_honoured_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidField, match=f"^{name}: cannot be honoured"):
        decode_sampling(**{name: value})
    with pytest.raises(InvalidField, match=f"^{name}: cannot be honoured"):
        decode_request({"text_input": as_bytes("a")}, json.dumps({name: value}))


SCHEMA = {"type": "object", "properties": {"z": {"type": "null"}, "a": {"enum": ["ü", 1.5]}}}
SCHEMA_TEXT = '{"type":"object","properties":{"z":{"type":"null"},"a":{"enum":["ü",1.5]}}}'


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"json": SCHEMA}, StructuredOutput("json", SCHEMA_TEXT)),
        ({"json": True}, StructuredOutput("json", "true")),
        ({"json": {"maximum": 10**30}}, StructuredOutput("json", '{"maximum":1' + "0" * 30 + "}")),
        ({"json_object": True}, StructuredOutput("json_object", "")),
        ({"regex": "[a-z]+"}, StructuredOutput("regex", "[a-z]+")),
        ({"choice": ["b", "a", "b"]}, StructuredOutput("choice", ("b", "a"))),
        ({"grammar": 'root ::= "a"'}, StructuredOutput("grammar", 'root ::= "a"')),
        (
            {"any_of": [{"regex": "a"}, {"json_object": True}]},
            StructuredOutput(
                "any_of", (StructuredOutput("regex", "a"), StructuredOutput("json_object"))
            ),
        ),
        (
            {"tool_calls": {"tools": [{"name": "f", "parameters": {}}]}},
            StructuredOutput("tool_calls", '{"tools":[{"name":"f","parameters":{}}]}'),
        ),
        (None, None),
    ],
)
def test_guided_output(given: object, kept: StructuredOutput | None) -> None:
    """Keys stay in the schema's order: that is the order in which they are generated."""
    guided = decode_sampling(guided=given).guided
    assert guided == kept
    assert guided is None or StructuredOutput.of(guided.as_json()) == guided


@pytest.mark.parametrize(
    "guided",
    [
        *({"regex": "\ud800"}, {"choice": ["a", "\udc00"]}, {"grammar": 'root ::= "\ud83d"'}),
        *({"json": {"const": "\ud800"}}, {"json": {"properties": {"\udfff": {}}}}),
        {"json": {"pattern": "\ud800"}},
    ],
    ids=ascii,
)
def test_half_a_character_is_refused(guided: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match=r"^guided: must not have half a surrogate pair"):
        StructuredOutput.of(guided)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, ("json", SCHEMA_TEXT)),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "description": "d", "strict": False, "schema": SCHEMA},
            },
            ("json", SCHEMA_TEXT),
        ),
        ({"type": "json_object"}, ("json_object", "")),
        ({"type": "json_object", "json_schema": None, "schema": None}, ("json_object", "")),
        ({"type": "json_object", "schema": SCHEMA}, ("json", SCHEMA_TEXT)),
        (
            {"type": "json_schema", "schema": None, "json_schema": {"schema": SCHEMA, "x": None}},
            ("json", SCHEMA_TEXT),
        ),
        ({"type": "text", "json_schema": None}, None),
        ({"type": "text"}, None),
        (None, None),
    ],
)
def test_response_format_is_a_spelling_of_guided(
    given: object, kept: tuple[Any, Any] | None
) -> None:
    guided = decode_sampling(response_format=given).guided
    assert guided == (None if kept is None else StructuredOutput(*kept))
    assert guided is None or guided.given_as == "response_format"


@pytest.mark.parametrize(
    "given",
    [
        *(
            '["json_object"]',
            {},
            {"type": "xml"},
            {"type": None},
            {"type": ["text"]},
            ["json_object"],
        ),
        *({"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}),
        {"type": "json_schema", "json_schema": {"schema": "{}"}},
        {"type": "json_schema", "json_schema": {"schema": {}, "schemas": {}}},
        {"type": "json_object", "json_schema": {"schema": {}}},
        *({"type": "json_object", "schema": []}, {"type": "json_schema", "json_schema": None}),
        {"type": "text", "schema": {}},
    ],
)
def test_refused_response_formats(given: object) -> None:
    with pytest.raises(InvalidField, match=r"^response_format: .*must ") as caught:
        decode_sampling(response_format=given)
    assert caught.value.field == "response_format"


@pytest.mark.parametrize("field", ["structured_outputs", "guided_decoding"])
@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ('{"choice": ["a"]}', "choice"),
        ({"regex": "a", "json": None, "disable_any_whitespace": False}, "regex"),
        ({"json": '{"type": "object"}', "backend": "xgrammar"}, "json"),
        ({"backend": "auto", "json": None}, None),
    ],
)
def test_upstreams_spelling_of_guided(field: str, given: object, kind: str | None) -> None:
    guided = decode_sampling(**{field: given}).guided
    assert (guided and (guided.kind, guided.given_as)) == (kind and (kind, field))
    for bad in (
        "x",
        "[]",
        {"regex": "a", "choice": ["a"]},
        {"regex": "a", "whitespace_pattern": "b"},
    ):
        with pytest.raises(InvalidField, match=f"^{field}: "):
            decode_sampling(**{field: bad})


def test_one_spelling_is_enough() -> None:
    with pytest.raises(InvalidField, match=r"^response_format: must not be given beside `guided`"):
        decode_sampling(guided={"json_object": True}, response_format={"type": "json_object"})
    text = decode_sampling(guided={"regex": "a"}, response_format=None)
    assert text.guided == StructuredOutput("regex", "a")


def test_a_schema_is_nested_so_deep_at_most() -> None:
    def nested(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(levels - 1):
            schema = {"not": schema}
        return schema

    assert decode_sampling(guided={"json": nested(MAX_DEPTH)}).guided is not None
    for levels in (MAX_DEPTH + 1, 900):
        with pytest.raises(InvalidField, match=rf"^guided: must .* {MAX_DEPTH} levels deep$"):
            decode_sampling(guided={"json": nested(levels)})


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "null", "1", '"a"', "true", "temperature=1", "{'top_k': 1}", " "),
        pytest.param(b"\xff{}", id="not UTF-8"),
        pytest.param('{"top_k": ' + "9" * 5000 + "}", id="a number too long to read"),
    ],
)
def test_sampling_parameters_must_be_a_json_object(text: str | bytes) -> None:
    with pytest.raises(InvalidField, match=r"^sampling_parameters: "):
        decode(text_input="hi", sampling_parameters=text)


@pytest.mark.parametrize("text", ["", "{}", " {} "])
def test_no_sampling_parameters_are_the_defaults(text: str) -> None:
    assert decode(text_input="hi", sampling_parameters=text).sampling == SamplingParameters()


@pytest.mark.parametrize("field", ["messages", "sampling_parameters"])
def test_json_nested_too_deeply_is_the_callers_error(field: str) -> None:
    prompt = {} if field == "messages" else {"text_input": "hi"}
    with pytest.raises(InvalidField, match=f"^{field}: "):
        decode(**prompt, **{field: "[" * 100_000})


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param({"messages": r'[{"role": "user", "content": "\ud83d"}]'}, id="content"),
        pytest.param({"messages": r'[{"role": "\ude00", "content": "hi"}]'}, id="role"),
        pytest.param({"text_input": "hi", "sampling_parameters": r'{"\ud83d": 1}'}, id="name"),
    ],
)
def test_a_lone_surrogate_is_refused_in_words_that_can_be_sent(inputs: dict[str, Any]) -> None:
    """JSON can escape half a surrogate pair; no tokenizer and no UTF-8 message can carry it."""
    with pytest.raises(InvalidField) as caught:
        decode(**inputs)
    str(caught.value).encode()


def test_an_escaped_surrogate_pair_is_a_character() -> None:
    request = decode(messages=r'[{"role": "user", "content": "\ud83d\ude00"}]')
    assert request.messages == [{"role": "user", "content": "😀"}]


@pytest.mark.parametrize(
    ("temperature", "greedy"), [(0, True), (9e-6, True), (1e-5, False), (1, False)]
)
def test_temperatures_close_to_zero_are_greedy(temperature: float, greedy: bool) -> None:
    assert SamplingParameters(temperature=temperature).greedy is greedy


def test_parameters_made_in_code_are_checked_like_those_from_json() -> None:
    with pytest.raises(InvalidField, match=r"^top_p: must be from 0 to 1$"):
        SamplingParameters(top_p=2)


# --- outputs ------------------------------------------------------------------------------------


def chunk(**changes: Any) -> ResponseChunk:  # noqa: ANN401
    values: dict[str, Any] = {
        "text": "Grüße 😀",
        "token_ids": [7, 8, 9],
        "finish_reason": None,
        "num_input_tokens": 5,
        "text_offsets": [0, 5, 6],
        "prompt_token_ids": [1, 2],
        "in_reasoning": False,
        "queue_depth": 0,
        "queue_wait_ms": 3,
    }
    return ResponseChunk(**values | changes)


def encode(made: ResponseChunk, *returns: str) -> dict[str, Array]:
    tensors = encode_response(made, frozenset(returns))
    assert len(dict(tensors)) == len(tensors)
    return dict(tensors)


def test_text_alone_comes_unasked() -> None:
    tensors = encode(chunk())
    assert list(tensors) == ["text_output"]
    assert tensors["text_output"].tolist() == ["Grüße 😀".encode()]


@pytest.mark.parametrize("name", FLAGS_FOR_OUTPUTS)
def test_an_output_comes_when_asked_for(name: str) -> None:
    assert set(encode(chunk(), name)) == {"text_output", name}


def test_all_tensors_have_the_contracts_names_types_and_shapes() -> None:
    tensors = encode(chunk(), *FLAGS_FOR_OUTPUTS)
    assert set(tensors) == {spec.name for spec in OUTPUTS}
    for spec in OUTPUTS:
        array = tensors[spec.name]
        assert array.dtype == NUMPY_TYPES[spec.datatype], spec.name
        length = {"token_ids": 3, "text_offsets": 3, "prompt_token_ids": 2}.get(spec.name, 1)
        assert array.shape == (length,), spec.name
        if spec.datatype == "BYTES":
            assert all(type(value) is bytes for value in array), spec.name


@pytest.mark.parametrize(
    ("reason", "sent"), [(None, b"None"), ("stop", b"stop"), ("length", b"length")]
)
def test_finish_reason_is_the_word_none_before_the_end(reason: str | None, sent: bytes) -> None:
    tensors = encode(chunk(finish_reason=reason), "finish_reason")
    assert tensors["finish_reason"].tolist() == [sent]


@pytest.mark.parametrize("ids", [[], [3], [3, 4, 5]])
def test_output_tokens_are_those_of_this_response(ids: list[int]) -> None:
    tensors = encode(chunk(token_ids=ids), "num_output_tokens", "num_input_tokens", "token_ids")
    assert tensors["num_output_tokens"].tolist() == [len(ids)]
    assert tensors["num_input_tokens"].tolist() == [5]
    assert tensors["token_ids"].tolist() == ids
    assert tensors["token_ids"].dtype == np.int32  # also when there are none


def test_logprobs_are_json_with_an_object_a_token() -> None:
    entries = [
        [Logprob(7, -0.5, 1, "Grü"), Logprob(3, -1.5, 2, "\ufffd")],
        [Logprob(8, -2.25, 30, "ße")],
    ]
    (sent,) = encode(chunk(logprobs=entries), "logprobs")["logprobs"]
    assert json.loads(sent) == [
        {
            "7": {"logprob": -0.5, "rank": 1, "decoded_token": "Grü"},
            "3": {"logprob": -1.5, "rank": 2, "decoded_token": "\ufffd"},
        },
        {"8": {"logprob": -2.25, "rank": 30, "decoded_token": "ße"}},
    ]


def test_logprobs_have_bytes_where_the_text_does_not_tell_and_no_infinity() -> None:
    entry = [Logprob(9, -float("inf"), 4, "\ufffd", b"\xe4")]
    (sent,) = encode(chunk(logprobs=[entry]), "logprobs")["logprobs"]
    assert json.loads(sent)[0]["9"] == {
        "logprob": -9999.0,
        "rank": 4,
        "decoded_token": "\ufffd",
        "bytes": [0xE4],
    }


def test_whether_the_prompt_opens_reasoning_is_said_once() -> None:
    (said,) = encode(chunk(in_reasoning=True), "in_reasoning")["in_reasoning"].tolist()
    assert said is True
    assert "in_reasoning" not in encode(chunk(in_reasoning=None), "in_reasoning")


def test_logprobs_keep_the_chosen_token_first() -> None:
    entry = [Logprob(9, -3.0, 4, "c"), Logprob(1, -0.5, 1, "a"), Logprob(2, -1.0, 2, "b")]
    (sent,) = encode(chunk(logprobs=[entry]), "logprobs")["logprobs"]
    assert list(json.loads(sent)[0]) == ["9", "1", "2"]


@pytest.mark.parametrize(("entries", "sent"), [(None, b"null"), ([], b"[]")])
def test_logprobs_without_entries(entries: list[list[Logprob]] | None, sent: bytes) -> None:
    assert encode(chunk(logprobs=entries), "logprobs")["logprobs"].tolist() == [sent]


def test_cumulative_logprob_is_a_float() -> None:
    tensors = encode(chunk(cumulative_logprob=-12.5), "cumulative_logprob")
    assert tensors["cumulative_logprob"].tolist() == [-12.5]


def test_request_parameters_stand_in_for_sampling_parameters() -> None:
    inputs = {"text_input": np.array([b"a"], dtype=np.object_)}
    given = '{"max_tokens": 3, "triton_enable_empty_final_response": true, "other": "x"}'
    assert decode_request(inputs, given).sampling == SamplingParameters(max_tokens=3)
    text = '{"max_tokens": "3", "temperature": "0.5", "ignore_eos": "true", "seed": null}'
    wanted = SamplingParameters(max_tokens=3, temperature=0.5, ignore_eos=True)
    assert decode_request(inputs, text).sampling == wanted
    tensor = {"sampling_parameters": np.array([b'{"seed": 1}'], dtype=np.object_)}
    assert decode_request(inputs | tensor, given).sampling == SamplingParameters(seed=1)
