"""Tools beside structured output: answers are calls as the model writes them, or of the form.

On the demo model's weights under chat templates that write calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openai import BadRequestError, OpenAI

from tests.support import chats
from tests.support.server import WEIGHTS, TriadServer, triad_server

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if tools %}{# MARKS #}{% endif %}<|im_start|>assistant\n"
)
MARKS = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama": ("<|start_header_id|>", "parameters", "<|python_tag|>"),
    "mistral": ("[TOOL_CALLS]",),
}
SPECIAL = {"hermes": {2046: "<tool_call>", 2047: "</tool_call>"}, "llama": {2047: "<|python_tag|>"}}
"""Mistral's is a text of several tokens here."""

FORM = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "<tool_call>", "[TOOL_CALLS]"]}},
    "required": ["city"],
    "additionalProperties": False,
}
PARAMETERS = {
    "type": "object",
    "properties": {"days": {"$ref": "#/$defs/days"}, "unit": {"enum": ["C", "F"]}},
    "required": ["days", "unit"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "clock"}},
]
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "form", "schema": FORM}}


def make_model(folder: Path, name: str) -> Path:
    """The demo's weights, with a template of the name's, and the tokens that it has."""
    model = folder / name
    model.mkdir()
    for file in WEIGHTS.iterdir():
        if file.name not in ("tokenizer.json", "chat_template.jinja"):
            (model / file.name).symlink_to(file)
    tokenizer = json.loads((WEIGHTS / "tokenizer.json").read_text())
    for id_, content in SPECIAL.get(name, {}).items():
        vocabulary = tokenizer["model"]["vocab"]
        (old,) = [piece for piece, number in vocabulary.items() if number == id_]
        del vocabulary[old]
        merges = tokenizer["model"]["merges"]
        tokenizer["model"]["merges"] = [m for m in merges if "".join(m) != old]
        vocabulary[content] = id_
        like = tokenizer["added_tokens"][0]
        tokenizer["added_tokens"].append(like | {"id": id_, "content": content})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = TEMPLATE.replace("MARKS", " ".join(MARKS[name]))
    (model / "chat_template.jinja").write_text(template)
    return model


@pytest.fixture(scope="module")
def tools_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    folder = tmp_path_factory.mktemp("tools")
    first, *others = (str(make_model(folder, name)) for name in MARKS)
    environment = {"TRIAD_SERVING__MODELS": f"[{', '.join(others)}]"}
    with triad_server(folder / "log", "--model", first, environment=environment) as server:
        yield server


@pytest.fixture
def tools_client(tools_server: TriadServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{tools_server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: OpenAI, model: str, **fields: Any) -> tuple[Any, str]:  # noqa: ANN401
    """Ask with tools beside a format."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "How is the weather?"}],
        "tools": TOOLS,
        "response_format": FORMAT,
        "max_tokens": 400,
        "seed": 1,
        "parallel_tool_calls": False,
        **fields,
    }
    return chats.ask(client, **asked)


def check(message: Any, reason: str) -> bool:  # noqa: ANN401
    """Whether it is a call; valid either way."""
    if not message.tool_calls:
        jsonschema.validate(json.loads(message.content), FORM)
        assert reason == "stop"
        return False
    assert not message.content
    assert reason == "tool_calls"
    for call in message.tool_calls:
        schema = PARAMETERS if call.function.name == "weather" else {"maxProperties": 0}
        jsonschema.validate(json.loads(call.function.arguments), schema)
    return True


def bias(model: str, towards_calls: bool) -> dict[str, float]:
    """Of the tokens that an answer begins with: the demo model would not call by itself."""
    first = {"hermes": ["2046"], "llama": ["2047"], "mistral": ["61"]}[model]
    return dict.fromkeys(first, 100.0 if towards_calls else -100.0)


@pytest.mark.parametrize("model", MARKS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("calls", [False, True])
def test_a_call_or_the_form(tools_client: OpenAI, model: str, stream: bool, calls: bool) -> None:
    message, reason = ask(tools_client, model, stream=stream, logit_bias=bias(model, calls))
    if model != "llama":  # where calls may begin without a token of their own
        assert check(message, reason) is calls
    else:
        assert check(message, reason) or not calls


@pytest.mark.parametrize("model", MARKS)
def test_either_is_valid_whatever_the_model_likes(tools_client: OpenAI, model: str) -> None:
    for seed in range(6):
        check(*ask(tools_client, model, seed=seed, temperature=1.5))


@pytest.mark.parametrize(
    "structure",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": None, "extra_body": {"guided_choice": ["<tool_call>yes", "no"]}},
        {"response_format": None, "extra_body": {"structured_outputs": {"regex": "[0-9]{3}"}}},
    ],
)
def test_every_kind_of_structure(tools_client: OpenAI, structure: dict[str, Any]) -> None:
    message, reason = ask(
        tools_client, "hermes", logit_bias=bias("hermes", towards_calls=False), **structure
    )
    assert not message.tool_calls
    assert message.content
    assert reason in ("stop", "length")
    assert ask(tools_client, "hermes", logit_bias=bias("hermes", True), **structure)[0].tool_calls


@pytest.mark.parametrize("model", MARKS)
def test_calls_that_are_cut_off(tools_client: OpenAI, model: str) -> None:
    message, _ = ask(
        tools_client,
        model,
        parallel_tool_calls=True,
        logit_bias=bias(model, towards_calls=True),
        max_tokens=100,
    )
    assert message.tool_calls
    assert not message.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_forced_call_has_no_text_that_a_form_could_be_of(
    tools_client: OpenAI, stream: bool, choice: object
) -> None:
    message, reason = ask(tools_client, "hermes", stream=stream, tool_choice=choice)
    (call,) = message.tool_calls
    assert not message.content
    assert reason == ("tool_calls" if choice == "required" else "stop")
    schema = PARAMETERS if call.function.name == "weather" else {}
    jsonschema.validate(json.loads(call.function.arguments), schema)


def test_without_tools_or_without_a_choice_it_is_the_form(tools_client: OpenAI) -> None:
    assert not check(*ask(tools_client, "hermes", tool_choice="none"))
    assert not check(*ask(tools_client, "hermes", tools=[]))


@pytest.mark.parametrize("choice", ["required", "auto"])
def test_what_is_wrong_with_a_tool_is_told(tools_client: OpenAI, choice: str) -> None:
    wrong = {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}, "$defs": {"b": 1}}
    for parameters, says in (
        ({"type": "object", "$defs": [1]}, "tools[1] must have an object of schemas for `$defs`"),
        ({"type": "object", "properties": 5}, "tools[1] must have an object of schemas for `prop"),
        ({"type": "array"}, "function `bad` must have parameters of type object"),
        (wrong, "cannot be kept to"),
    ):
        bad = {"type": "function", "function": {"name": "bad", "parameters": parameters}}
        with pytest.raises(BadRequestError) as caught:
            ask(tools_client, "hermes", tools=[TOOLS[1], bad], tool_choice=choice)
        assert says in str(caught.value)
