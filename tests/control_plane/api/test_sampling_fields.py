"""Every sampling parameter is offered, or refused by name, wherever one may be given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import Request
from pydantic import ValidationError

from backends.contract.errors import InvalidField
from backends.contract.sampling import PARAMETERS, SamplingParameters, parameter_table
from backends.sampling_parameters.kinds import Kind
from control_plane.api.body import Body, settle_unknown_fields
from control_plane.api.openai.chat.routes import ChatCompletionRequest
from control_plane.api.openai.completions.routes import CompletionRequest
from control_plane.api.openai.fields import V1Request
from control_plane.api.schemas import ChatRequest, GenerateRequest, Sampling
from control_plane.errors import InvalidRequest
from control_plane.python_api.options import OPTIONS, require_offered
from control_plane.python_api.vllm_server import VLLMRequest
from control_plane.settings import ServingSettings

MESSAGES = [{"role": "user", "content": "x"}]
PROMPTS: dict[type[Body], dict[str, Any]] = {
    GenerateRequest: {"prompt": "x"},
    ChatRequest: {"messages": MESSAGES},
    CompletionRequest: {"prompt": "x"},
    ChatCompletionRequest: {"messages": MESSAGES},
}
REST: list[type[Sampling]] = [GenerateRequest, ChatRequest]
V1: list[type[V1Request]] = [CompletionRequest, ChatCompletionRequest]

VALUES: dict[str, Any] = {"guided": {"regex": "a"}, "temperature": 0.25, "ignore_eos": True}
BY_TYPE: dict[str, Any] = {"integer": 1, "number": 0.5, "string": "x", "object": {"5": 1.5}}
WRONG: dict[str, Any] = {name: [{}] for name in ("integer", "number", "boolean", "string")}
WRONG |= {"array": {}, "object": "x"}


def value_of(name: str) -> Any:  # noqa: ANN401
    """Return a value, as JSON has it, that is not the parameter's default."""
    parameter = PARAMETERS[name]
    if name in VALUES:
        return VALUES[name]
    if parameter.kind.type == "boolean":
        return not parameter.default
    if parameter.kind.type == "array":
        return ["x"] if name == "stop" else [5]
    return BY_TYPE[parameter.kind.type]


def wrong_value_of(name: str) -> Any:  # noqa: ANN401
    kind: Kind = PARAMETERS[name].kind
    return WRONG[kind.type]


def received(sampling: Mapping[str, Any]) -> SamplingParameters:
    """Return what an engine makes of the parameters that a surface sends."""
    return SamplingParameters.from_json(json.dumps(sampling))


def settle(body: Body) -> None:
    """Apply the rule for unknown fields, as routes do."""
    services = SimpleNamespace(settings=ServingSettings(unknown_fields="refuse"))
    state = SimpleNamespace(services=services, response_headers={})
    request = SimpleNamespace(app=SimpleNamespace(state=state), state=state)
    settle_unknown_fields(body, cast(Request, request))


def refusal(model: type[Body], field: str, value: object) -> str:
    """Return the field that the error names."""
    body = PROMPTS[model] | {field: value}
    try:
        settle(model.model_validate(body))
    except InvalidRequest as error:
        return error.param or ""
    except ValidationError as error:
        return str(error.errors()[0]["loc"][0])
    pytest.fail(f"{field} is accepted")


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_tensor_contract_offers_it(name: str) -> None:
    value = value_of(name)
    assert getattr(received({name: value}), name) == getattr(
        SamplingParameters(**{name: value}), name
    )
    assert received({name: value}) != SamplingParameters()
    with pytest.raises(InvalidField, match=f"^{name}: ") as caught:
        received({name: wrong_value_of(name)})
    assert caught.value.field == name


@pytest.mark.parametrize("model", REST)
@pytest.mark.parametrize("name", PARAMETERS)
def test_generate_and_chat_offer_it_or_refuse_it(name: str, model: type[Sampling]) -> None:
    parameter, value = PARAMETERS[name], value_of(name)
    field = parameter.rest_name or name
    assert refusal(model, field, wrong_value_of(name)) == field
    if "rest" not in parameter.surfaces:
        assert refusal(model, field, value) == field
        return
    body = model.model_validate(PROMPTS[model] | {field: value})
    settle(body)
    expected = {"max_tokens": 512, "temperature": 0.7} | {name: value}
    assert received(body.sampling_parameters()) == SamplingParameters(**expected)


@pytest.mark.parametrize("model", V1)
@pytest.mark.parametrize("name", PARAMETERS)
def test_openais_routes_offer_it_or_refuse_it(name: str, model: type[V1Request]) -> None:
    value = value_of(name)
    assert refusal(model, name, wrong_value_of(name)) == name
    if "openai" not in PARAMETERS[name].surfaces:
        assert refusal(model, name, value) == name
        return
    fields = {name: value}
    if model is ChatCompletionRequest and name == "logprobs":
        fields = {"logprobs": True, "top_logprobs": value}
    body = model.model_validate(PROMPTS[model] | fields)
    settle(body)
    body.check()
    sent = body.sampling(body.limit or 16)
    if (seed := body.seeds(1)[0]) is not None:
        sent["seed"] = seed
    if isinstance(body, CompletionRequest):
        sent |= body.logprobs_sampling()
    elif isinstance(body, ChatCompletionRequest) and body.alternatives is not None:
        sent["logprobs"] = body.alternatives
    assert received(sent) == SamplingParameters(**{name: value})


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_python_api_offers_it_or_refuses_it(name: str) -> None:
    """What `ModelServer` does with values, and with what is no parameter, its own tests show."""
    value = value_of(name)
    if "python" not in PARAMETERS[name].surfaces:
        with pytest.raises(TypeError, match=f"'{name}'"):
            VLLMRequest(prompt="x", **{name: value})
        with pytest.raises(InvalidRequest, match=f"^{name}: ") as caught:
            require_offered({name: value})
        assert caught.value.param == name
        return
    require_offered({name: value})
    sent = VLLMRequest(prompt="x", **{name: value}).sampling()
    assert received(sent) == SamplingParameters(**{name: value})


def test_requests_without_parameters_ask_for_the_documented_defaults() -> None:
    defaults = SamplingParameters(max_tokens=512, temperature=0.7)
    for rest in REST:
        assert received(rest.model_validate(PROMPTS[rest]).sampling_parameters()) == defaults
    for v1 in V1:
        body = v1.model_validate(PROMPTS[v1])
        assert received(body.sampling(16)) == SamplingParameters()
    assert VLLMRequest(prompt="x").sampling() == {}
    assert (OPTIONS["max_tokens"], OPTIONS["temperature"]) == (512, 0.7)


def test_fields_document_ranges_defaults_and_descriptions() -> None:
    rest = GenerateRequest.model_json_schema()["properties"]["top_n_sigma"]
    assert (rest["minimum"], rest["maximum"], rest["default"]) == (0, 100, 0)
    v1 = ChatCompletionRequest.model_json_schema()["properties"]["top_n_sigma"]
    assert {"type": "number", "minimum": 0, "maximum": 100} in v1["anyOf"]
    description = PARAMETERS["top_n_sigma"].description
    assert (rest["description"], v1["description"]) == (description, f"{description}; default: 0.0")


def test_the_table_has_a_row_for_each() -> None:
    rows = {row.name.split(", ")[0]: row for row in parameter_table()}
    assert rows.keys() == PARAMETERS.keys()
    assert rows["stop"].name == "stop, stop_sequences"
    assert rows["max_tokens"].default == "512 (16 in tensors)"
    assert rows["logit_bias"].default == "{}"
    for row in rows.values():
        assert all(row), row
        assert row.description.endswith(".")
    assert rows["top_n_sigma"].description.endswith("(onnx, pytorch only).")


@pytest.mark.process
def test_the_gateway_needs_no_pytorch() -> None:
    program = "import control_plane.app, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
