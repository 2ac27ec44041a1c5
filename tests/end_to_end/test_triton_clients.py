"""The tensor contract straight at Triton: `tritonclient`, and HTTP `generate` and
`generate_stream`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc.aio as grpcclient

from backends.contract.kinds import RequestKind
from tests.support.contract import InferenceServerException, cancel, describe, infer
from tests.support.server import TriadServer, wait_until

FRANCE = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
GREEDY = {"temperature": 0, "max_tokens": 32}


def test_whole_answers_carry_the_prompt_unless_told_otherwise(server: TriadServer) -> None:
    """As upstream: https://github.com/triton-inference-server/vllm_backend."""

    def ask(**inputs: Any) -> str:  # noqa: ANN401
        return infer(
            server.grpc, "demo", text_input=FRANCE, sampling_parameters=GREEDY, **inputs
        ).text

    assert ask() == FRANCE + ANSWER
    assert ask(exclude_input_in_output=True) == ANSWER
    assert ask(stream=True) == ANSWER
    with pytest.raises(InferenceServerException, match="exclude_input_in_output"):
        ask(stream=True, exclude_input_in_output=False)


def test_optional_outputs_come_when_asked_for(server: TriadServer) -> None:
    plain = infer(server.grpc, "demo", text_input=FRANCE, sampling_parameters=GREEDY, stream=True)
    assert all(set(r) == {"text_output"} for r in plain.responses)
    full = infer(
        server.grpc,
        "demo",
        text_input=FRANCE,
        sampling_parameters=GREEDY | {"logprobs": 2},
        stream=True,
        return_finish_reason=True,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
        return_logprobs=True,
        return_cumulative_logprob=True,
        return_token_ids=True,
    )
    assert [r["finish_reason"][0] for r in full.responses] == (
        [b"None"] * (len(full.responses) - 1) + [b"stop"]
    )
    assert sum(int(r["num_output_tokens"][0]) for r in full.responses) == len(full.token_ids)
    assert {int(r["num_input_tokens"][0]) for r in full.responses} == {
        int(full.responses[0]["num_input_tokens"][0])
    }
    entries = [e for r in full.responses for e in json.loads(r["logprobs"][0])]
    assert len(entries) == len(full.token_ids)
    for entry, token_id in zip(entries, full.token_ids, strict=True):
        assert entry[str(token_id)]["rank"] == 1  # greedy
        assert set(entry[str(token_id)]) == {"logprob", "rank", "decoded_token"}
    total = sum(e[str(i)]["logprob"] for e, i in zip(entries, full.token_ids, strict=True))
    assert full.responses[-1]["cumulative_logprob"][0] == pytest.approx(total, rel=1e-4)


def test_prompt_logprobs_come_once(server: TriadServer) -> None:
    sampling = GREEDY | {"prompt_logprobs": 1}
    answer = infer(
        *(server.grpc, "demo"),
        text_input=FRANCE,
        stream=True,
        sampling_parameters=sampling,
        return_prompt_logprobs=True,
    )
    first, *rest = [json.loads(r["prompt_logprobs"][0]) for r in answer.responses]
    assert rest == [None] * len(rest)
    assert first[0] is None
    words = [next(iter(entry.values())) for entry in first[1:]]
    assert FRANCE.endswith("".join(word["decoded_token"] for word in words))
    assert all(word["logprob"] <= 0 and word["rank"] >= 1 for word in words)


def test_messages_go_through_the_chat_template(server: TriadServer) -> None:
    messages = json.dumps([{"role": "user", "content": FRANCE}])
    answer = infer(server.grpc, "demo", messages=messages, sampling_parameters=GREEDY)
    assert answer.text == ANSWER


def test_a_resumed_request_goes_on_where_it_stopped(server: TriadServer) -> None:
    """Also in the middle of a random choice: the seed's draws are taken again."""
    sampling = {"temperature": 1.0, "seed": 11, "max_tokens": 40}
    inputs: dict[str, Any] = {
        "text_input": "Tell me a joke",
        "stream": True,
        "return_token_ids": True,
        "sampling_parameters": sampling,
    }
    whole = infer(server.grpc, "demo", **inputs)
    for at in (1, len(whole.token_ids) // 2, len(whole.token_ids) - 1):
        rest = infer(server.grpc, "demo", **inputs, resume_token_ids=whole.token_ids[:at])
        assert whole.token_ids[:at] + rest.token_ids == whole.token_ids
        assert whole.text.endswith(rest.text)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"text_input": FRANCE, "sampling_parameters": {"max_token": 5}}, "max_token: "),
        ({"text_input": FRANCE, "sampling_parameters": "{"}, "sampling_parameters: "),
        ({"text_input": FRANCE, "sampling_parameters": {"top_p": 2}}, "top_p: "),
        ({"text_input": FRANCE, "sampling_parameters": {"n": 2}}, "n: "),
        ({"text_input": FRANCE, "sampling_parameters": {"max_tokens": 4096}}, "max_tokens: "),
        ({"text_input": ""}, "text_input: "),
        ({"text_input": "word " * 4000}, "text_input: "),
        ({"stream": False}, "text_input: "),
        ({"messages": "[]"}, "messages: "),
        ({"text_input": FRANCE, "resume_token_ids": [10**6]}, "resume_token_ids: "),
        (
            {"text_input": FRANCE, "sampling_parameters": {"logit_bias": {"99999": 1}}},
            "logit_bias: ",
        ),
    ],
)
def test_errors_have_a_true_status_and_name_the_field(
    server: TriadServer, inputs: dict[str, Any], says: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(server.grpc, "demo", **inputs)
    assert caught.value.message().startswith(says)
    # The stream has no place for a status but a header that can crash Triton 24.10.
    body = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in inputs.items()}
    url = f"http://127.0.0.1:{server.http_port}/v2/models/demo/generate"
    response = requests.post(url, json=body, timeout=30)
    assert (response.status_code, response.json()["error"][: len(says)]) == (400, says)


def test_http_generate(server: TriadServer) -> None:
    url = f"http://127.0.0.1:{server.http_port}/v2/models/demo"
    body = {"text_input": FRANCE, "sampling_parameters": json.dumps(GREEDY)}
    answer = requests.post(f"{url}/generate", json=body, timeout=30).json()
    assert answer["text_output"] == FRANCE + ANSWER
    loose = {"max_tokens": 2, "temperature": 0, "unknown": 1}  # as upstream's own example has them
    short = requests.post(
        f"{url}/generate", json={"text_input": FRANCE, "parameters": loose}, timeout=30
    ).json()
    assert short["text_output"] in [FRANCE + ANSWER[:n] for n in range(3, 12)]
    with requests.post(
        f"{url}/generate_stream", json={**body, "stream": True}, timeout=30, stream=True
    ) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line]
    assert "".join(event["text_output"] for event in events) == ANSWER


@pytest.mark.parametrize("model", ["demo", "demo_onnx"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_sample_client_of_upstream(server: TriadServer, model: str, stream: bool) -> None:
    """Its requests: https://github.com/triton-inference-server/vllm_backend, samples/client.py.
    Numbers are text there, and stand in a tensor and in the request's parameters."""
    sampling = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "100"}

    async def requests_() -> AsyncIterator[dict[str, Any]]:
        for number in range(2):
            inputs = [
                grpcclient.InferInput("text_input", [1], "BYTES"),
                grpcclient.InferInput("stream", [1], "BOOL"),
                grpcclient.InferInput("sampling_parameters", [1], "BYTES"),
            ]
            inputs[0].set_data_from_numpy(np.array([FRANCE.encode()], dtype=np.object_))
            inputs[1].set_data_from_numpy(np.array([stream], dtype=bool))
            text = json.dumps(sampling).encode()
            inputs[2].set_data_from_numpy(np.array([text], dtype=np.object_))
            yield {
                "model_name": model,
                "inputs": inputs if number == 0 else inputs[:2],
                "outputs": [grpcclient.InferRequestedOutput("text_output")],
                "request_id": str(number),
                "parameters": sampling,
            }

    texts = {"0": "", "1": ""}
    async with grpcclient.InferenceServerClient(url=server.grpc) as client:
        async for result, error in client.stream_infer(inputs_iterator=requests_()):
            assert error is None, error
            for text in result.as_numpy("text_output"):
                texts[result.get_response().id] += text.decode()
    assert set(texts.values()) == {ANSWER if stream else FRANCE + ANSWER}


@pytest.mark.parametrize("model", ["demo", "demo_onnx"])
def test_the_requests_of_genai_perf(server: TriadServer, model: str) -> None:
    """Its payloads for this backend: https://github.com/triton-inference-server/perf_analyzer,
    genai_perf/inputs/converters, vllm_converter.py and triton_generate_converter.py."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}"
    sampling = json.dumps({"max_tokens": "20", "min_tokens": "20"})
    payload = {"model": model, "text_input": [FRANCE], "exclude_input_in_output": [True]}
    payload |= {"sampling_parameters": [sampling]}
    counted = {"return_num_output_tokens": [True]}
    answer = requests.post(f"{url}/generate", json=payload | counted, timeout=30).json()
    assert answer["text_output"].startswith(ANSWER)
    assert answer["num_output_tokens"] == 20
    streamed = payload | {"stream": [True]}
    with requests.post(f"{url}/generate_stream", json=streamed, timeout=30, stream=True) as lines:
        events = [json.loads(line[6:]) for line in lines.iter_lines() if line]
    assert "".join(event["text_output"] for event in events).startswith(ANSWER)
    generate = {"text_input": FRANCE, "max_tokens": 3, "stream": True}
    with requests.post(f"{url}/generate_stream", json=generate, timeout=30, stream=True) as lines:
        events = [json.loads(line[6:]) for line in lines.iter_lines() if line]
    text = "".join(event["text_output"] for event in events)
    assert ANSWER.startswith(text) and text


def test_the_engine_describes_itself(server: TriadServer) -> None:
    facts = describe(server.grpc, "demo")
    assert (facts["backend"], facts["model_name"]) == ("pytorch", "demo")
    assert (facts["context_length"], facts["dtype"]) == (2048, "float32")
    assert facts["tokenizer_loaded"] is True
    assert facts["parameters"] > 10**6


def test_a_request_is_cancelled_by_its_id(server: TriadServer) -> None:
    """As the gateway does it, and without an effect on the request beside it."""
    script = json.dumps({"tokens": 1000, "interval_ms": 5, "hang_at": 200})
    short = json.dumps({"tokens": 200, "interval_ms": 5})
    asked: dict[str, Any] = {"stream": True, "sampling_parameters": {"max_tokens": 1000}}
    with ThreadPoolExecutor() as pool:
        cancelled = pool.submit(
            infer, server.grpc, "scripted", request_id="a", text_input=script, **asked
        )
        kept = pool.submit(
            infer, server.grpc, "scripted", request_id="b", text_input=short, **asked
        )
        wait_until(lambda: describe(server.grpc, "scripted")["running"] == 2)
        assert cancel(server.grpc, "scripted", "a") == 1
        assert cancel(server.grpc, "scripted", "nobody") == 0
        numbers = cancelled.result(timeout=5).text.split()
        assert numbers == [str(i) for i in range(len(numbers))]
        assert len(numbers) < 200
        assert kept.result(timeout=10).text.split() == [str(i) for i in range(200)]


def test_an_unknown_kind_of_request_is_refused_with_those_there_are(server: TriadServer) -> None:
    with pytest.raises(InferenceServerException) as refused:
        infer(server.grpc, "demo", text_input="a", request_kind="translate")
    listed = ", ".join(kind for kind in sorted(RequestKind) if kind is not RequestKind.EMBED)
    problem = refused.value.message().removeprefix("request_kind: must be one of ")
    named, _, rest = problem.partition(", not ")
    assert ", ".join(sorted(named.split(", "))) == listed
    assert rest.startswith("`translate`")
