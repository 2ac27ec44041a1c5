"""The vLLM engine, through the same doors as the others. Its tokens are in `test_equality`."""

from __future__ import annotations

import concurrent.futures
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

from control_plane import ConfigManager, VLLMRequest, VLLMServer
from control_plane.engines.vllm import ENGINE
from control_plane.errors import InvalidRequest
from control_plane.settings import SettingsError
from tests.conftest import ServerFactory
from tests.support import vllm
from tests.support.contract import InferenceServerException, infer
from tests.support.reference import Reference
from tests.support.server import WEIGHTS, TriadServer, lives, wait_until
from tests.support.structured import HOSTILE, answers_validate

PROMPT = "What is machine learning?"


def generate(server: TriadServer, prompt: str = PROMPT, **body: Any) -> dict[str, Any]:  # noqa: ANN401
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 24, **body}
    response = server.post("/generate", body)
    answer: dict[str, Any] = response.json()
    assert response.ok or response.status_code == 400, answer
    return answer


def at_triton(server: TriadServer, prompt: str = PROMPT, **inputs: Any) -> Any:  # noqa: ANN401
    sampling = {"temperature": 0, "max_tokens": 24, **inputs.pop("sampling", {})}
    return infer(
        server.grpc,
        "demo_vllm",
        text_input=prompt,
        sampling_parameters=sampling,
        exclude_input_in_output=True,
        return_token_ids=True,
        **inputs,
    )


def reference(folder: Path) -> Reference:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Reference(AutoTokenizer.from_pretrained(folder), model)


def test_health_models_and_stats(vllm_server: TriadServer) -> None:
    health = vllm_server.get("/health").json()
    assert (health["status"], health["backend_type"]) == ("healthy", "vllm")
    assert health["model_loaded"] and health["tokenizer_loaded"]
    (model,) = [m for m in vllm_server.get("/models").json()["models"] if m["loaded"]]
    assert model == {
        "name": "demo_vllm",
        "type": "causal_lm",
        "parameters": "2.8M",
        "context_length": 2048,
        "loaded": True,
        "backend": "vllm",
    }
    answer = generate(vllm_server)
    assert answer["metadata"] == {"model_name": "demo_vllm", "backend": "vllm"}
    stats = vllm_server.get("/stats").json()
    assert stats["backend_type"] == "vllm"
    assert stats["total_tokens_generated"] >= answer["tokens_generated"]


def test_vllm_s_own_metrics_are_passed_on(vllm_server: TriadServer) -> None:
    hits = vllm_server.gauge("vllm:prefix_cache_hits_total")
    for _ in range(2):
        generate(vllm_server, "a prompt that is longer than a block " * 40)
    assert vllm_server.gauge("vllm:prefix_cache_hits_total") > hits
    text = vllm_server.get("/metrics").text
    for name in ("kv_cache_usage_perc", "num_preemptions_total", "num_requests_waiting"):
        assert f'vllm:{name}{{engine="0",model_name="demo_vllm"}}' in text
    assert text.count("# TYPE vllm:time_to_first_token_seconds histogram") == 1


def test_logprobs_are_the_model_s(vllm_server: TriadServer) -> None:
    answer = at_triton(
        vllm_server,
        return_logprobs=True,
        return_prompt_logprobs=True,
        return_cumulative_logprob=True,
        sampling={"logprobs": 3, "prompt_logprobs": 1, "presence_penalty": 0.5},
    )
    model = reference(WEIGHTS)
    prompt = model.tokenizer(PROMPT).input_ids
    with torch.inference_mode():
        logits = model.model(torch.tensor([prompt + answer.token_ids])).logits[0]
    logprobs = logits.log_softmax(-1).numpy()
    (response,) = answer.responses
    entries = json.loads(response["logprobs"][0])
    assert len(entries) == len(answer.token_ids) == 24
    for i, (entry, id_) in enumerate(zip(entries, answer.token_ids, strict=True)):
        row = logprobs[len(prompt) - 1 + i]
        assert entry[str(id_)]["logprob"] == pytest.approx(float(row[id_]), abs=2e-3)
        assert entry[str(id_)]["rank"] == int((row > row[id_]).sum()) + 1
        assert {int(key) for key in entry} == {id_, *np.argsort(-row)[:3].tolist()}
    chosen = [
        entry[str(id_)]["logprob"] for entry, id_ in zip(entries, answer.token_ids, strict=True)
    ]
    assert response["cumulative_logprob"][0] == pytest.approx(sum(chosen), abs=1e-3)
    first, *rest = json.loads(response["prompt_logprobs"][0])
    assert first is None
    for i, (entry, id_) in enumerate(zip(rest, prompt[1:], strict=True)):
        assert entry[str(id_)]["logprob"] == pytest.approx(float(logprobs[i][id_]), abs=2e-3)


def test_structured_output(vllm_server: TriadServer) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "kind": {"enum": ["a", "b"]},
            "sizes": {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0},
                      "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "kind", "sizes"],
        "additionalProperties": False,
    }  # fmt: skip
    free: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 200}
    for field in (
        {"guided": {"json": schema}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
    ):
        answer = generate(vllm_server, **free, **field)
        assert answer.get("finish_reason") == "stop", answer
        value = json.loads(answer["text"])
        assert set(value) == {"name", "kind", "sizes"}
        assert value["kind"] in ("a", "b")
        assert 1 <= len(value["sizes"]) <= 3
    answer = generate(vllm_server, **free, guided={"regex": r"[A-Z]{3}-\d{4}"})
    assert re.fullmatch(r"[A-Z]{3}-\d{4}", answer["text"])
    answer = generate(vllm_server, **free, guided={"choice": ["red", "green", "blue"]})
    assert answer["text"] in ("red", "green", "blue")
    refused = generate(vllm_server, guided={"regex": "(("})
    assert refused["error"]["param"] == "guided"
    # What the engine is asked next is not hurt by what it refused.
    assert generate(vllm_server)["text"].startswith("Machine learning")


def test_hostile_grammars_are_refused_and_hurt_nobody(vllm_server: TriadServer) -> None:
    """By what the other engines have in front of them, too."""
    engine = vllm.engine_process(vllm_server)
    for guided in HOSTILE:
        assert generate(vllm_server, guided=guided)["error"]["param"] == "guided"
    assert generate(vllm_server)["text"].startswith("Machine learning")
    assert vllm.engine_process(vllm_server).pid == engine.pid


def test_fixed_text_that_spells_a_special_token(vllm_server: TriadServer) -> None:
    text = "x<|im_end|>y e\u0301"
    for guided in ({"choice": [text]}, {"json": {"const": text}}):
        answer = generate(vllm_server, guided=guided, max_tokens=60)
        assert answer["finish_reason"] == "stop"
        assert answer["text"] in (text, json.dumps(text, ensure_ascii=False))


def test_calls_or_a_form(vllm_server: TriadServer) -> None:
    tools = [
        {"name": "f", "parameters": {"$ref": "#/$defs/p", "$defs": {"p": {"maxProperties": 0}}}}
    ]
    calls = {"tool_calls": {"format": "hermes", "tools": tools}}
    for forms, answers in (
        ([{"choice": ["no"]}, calls], ("no", "<tool_call>")),
        ([{"json": {"const": 1}}, {"regex": "[a-b]"}], ("1", "a", "b")),
    ):
        text = generate(vllm_server, guided={"any_of": forms}, temperature=1.0, seed=5)["text"]
        assert text.startswith(answers)


def test_every_completed_answer_validates(vllm_server: TriadServer) -> None:
    answers_validate(vllm_server, "demo_vllm")


def test_openai_s_client(vllm_server: TriadServer) -> None:
    with OpenAI(base_url=f"{vllm_server.url}/v1", api_key="none") as client:
        chat = client.chat.completions.create(
            model="demo_vllm",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            n=2,
            logprobs=True,
            top_logprobs=2,
        )
        assert [c.message.content for c in chat.choices] == ["The capital of France is Paris."] * 2
        assert chat.choices[0].finish_reason == "stop"
        logprobs = chat.choices[0].logprobs
        assert logprobs is not None and logprobs.content is not None
        assert len(logprobs.content[0].top_logprobs) == 2
        stream = client.completions.create(
            model="demo_vllm", prompt=PROMPT, temperature=0, max_tokens=24, stream=True
        )
        text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        assert text == generate(vllm_server)["text"]
        noisy = client.completions.create(
            model="demo_vllm",
            prompt=PROMPT,
            temperature=0,
            max_tokens=24,
            extra_body={"lora_name": "noise"},
        )
        assert noisy.choices[0].text == generate(vllm_server, lora_name="noise")["text"] != text


def test_an_adapter_by_name(vllm_server: TriadServer, vllm_folder: Path) -> None:
    merged, plain = reference(vllm_folder / "merged"), reference(WEIGHTS)
    prompts = [PROMPT, "Hello", "What is gravity?"]

    def ask(prompt: str, adapter: str | None) -> str:
        text: str = generate(vllm_server, prompt, max_tokens=16, lora_name=adapter)["text"]
        return text

    expected = [merged.text(merged.generate(p, max_new_tokens=16)) for p in prompts]
    without = [plain.text(plain.generate(p, max_new_tokens=16)) for p in prompts]
    assert expected != without
    with concurrent.futures.ThreadPoolExecutor(6) as pool:  # both kinds in one batch
        got = list(pool.map(ask, prompts * 2, ["noise"] * 3 + [None] * 3))
    assert got == expected + without
    refused = generate(vllm_server, lora_name="nobody")["error"]
    assert refused["param"] == "lora_name"
    assert "noise" in refused["message"]


def test_an_answer_is_resumed(vllm_server: TriadServer) -> None:
    whole = at_triton(vllm_server).token_ids
    rest = at_triton(vllm_server, resume_token_ids=whole[:9]).token_ids
    assert whole[:9] + rest == whole
    with pytest.raises(InferenceServerException, match="presence_penalty: cannot be used"):
        at_triton(vllm_server, resume_token_ids=whole[:9], sampling={"presence_penalty": 1.0})


def test_stop_strings_and_limits(vllm_server: TriadServer) -> None:
    answer = generate(vllm_server, max_tokens=64, stop_sequences=["artificial"])
    assert answer["finish_reason"] == "stop"
    assert answer["text"].endswith("a subset of ")
    refused = generate(vllm_server, "long " * 2100)["error"]
    assert "2048 tokens" in refused["message"]
    answer = generate(vllm_server, "long " * 2000, max_tokens=2048, ignore_eos=True)
    assert answer["finish_reason"] == "length"


def stream(server: TriadServer, number: int, events: int) -> None:
    """A streaming client that leaves after so many events; with 0 before the first one."""
    body = {"prompt": f"What is {number}?", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    if not events:
        with pytest.raises(requests.Timeout):
            requests.post(f"{server.url}/generate", json=body, timeout=0.3)
        return
    with server.post("/generate", body, stream=True) as response:
        for number, _ in enumerate(response.iter_lines()):
            if number >= events:
                break


def test_what_stands_in_front_is_as_for_other_engines(vllm_server: TriadServer) -> None:
    """Texts that cannot fit, and control tokens in a message."""
    for prompt in ("word " * 500_000, "word " * 3000):
        error = generate(vllm_server, prompt)["error"]
        assert error["code"] == "context_length_exceeded"
        assert "maximum context length is 2048 tokens" in error["message"]
    messages = [{"role": "user", "content": "a <|im_end|> b"}]
    body = vllm_server.post("/tokenize", {"messages": messages, "return_token_strs": True}).json()
    assert body["token_strs"].count("<|im_end|>") == 2  # the system's turn and the user's


def test_100_streams_that_are_left_leave_nothing(vllm_server: TriadServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        left = list(pool.map(lambda i: stream(vllm_server, i, 1 + i % 3), range(100)))
    assert len(left) == 100
    wait_until(lambda: vllm.gauges(vllm_server) == (0, 0), 10)


def test_a_client_that_leaves_before_the_first_token(vllm_server: TriadServer) -> None:
    """8 run, so these wait, and give no sign of life that their leaving could be noticed at."""
    body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(vllm_server.post("/generate", body, stream=True))
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda i: stream(vllm_server, i, 0), range(20)))
        wait_until(lambda: vllm.gauges(vllm_server) == (8, 0), 12)
    wait_until(lambda: vllm.gauges(vllm_server) == (0, 0), 10)


def test_the_death_of_the_engine_is_noticed_and_healed(vllm_server: TriadServer) -> None:
    engine = vllm.engine_process(vllm_server)
    killed = vllm.killed_while_requests_run(vllm_server, engine, 5)
    wait_until(vllm_server.is_ready, 240)  # as long as its start may take
    assert generate(vllm_server)["text"].startswith("Machine learning")
    assert not any(process.is_running() for process in killed)  # nor do they hold memory


def test_an_unknown_engine_argument(start_server: ServerFactory) -> None:
    if not vllm.INSTALLED:
        pytest.skip("vLLM is not installed: `make test` does that")
    with pytest.raises(AssertionError, match="unrecognized arguments: --no-such-thing"):
        start_server(
            *("--model", "demo", "--backend", "vllm"),
            TRIAD_SERVING__VLLM__PYTHON_ENVIRONMENT=str(vllm.ENVIRONMENT),
            TRIAD_SERVING__VLLM__ENGINE_ARGS="{no_such_thing: 3}",
        )


def test_without_vllm(start_server: ServerFactory) -> None:
    with pytest.raises(AssertionError, match="vLLM is not installed in this model's Python"):
        start_server("--model", "demo", "--backend", "vllm")


async def test_the_specification_s_example() -> None:
    """From plain weights, with the defaults of ``serving.vllm`` but for what is given."""
    if not vllm.INSTALLED:
        pytest.skip("vLLM is not installed: `make test` does that")
    config = ConfigManager()
    settings = config.serving.engine(ENGINE)
    settings.python_environment = vllm.ENVIRONMENT
    settings.enable_streaming = False
    async with VLLMServer(config) as vllm_server:
        await vllm_server.load_model(
            model_path=str(WEIGHTS),
            tensor_parallel_size=1,
            gpu_memory_utilization=0.9,
            enable_streaming=True,
            dtype="float32",
            enforce_eager=True,
            kv_cache_memory_bytes=64 << 20,
        )
        request = VLLMRequest(prompt=PROMPT, max_tokens=24, temperature=0, stream=True)
        responses = [response async for response in vllm_server.generate_stream(request)]
        assert len(responses) > 1
        text = "".join(response.text for response in responses)
        assert text.startswith("Machine learning is")
        assert sum(response.tokens_generated for response in responses) == 24
        assert responses[-1].finish_reason == "length"
        whole = await vllm_server.generate(request)
        assert (whole.text, whole.tokens_generated) == (text, 24)
        with pytest.raises(InvalidRequest, match="max_tokens"):
            await vllm_server.generate(VLLMRequest(prompt=PROMPT, max_tokens=0))


async def test_engine_arguments_are_not_for_a_server_that_is_joined(
    vllm_server: TriadServer,
) -> None:
    config = ConfigManager()
    config.serving.triton.endpoints = [vllm_server.grpc]
    async with VLLMServer(config) as joined:
        with pytest.raises(SettingsError, match="max_num_seqs"):
            await joined.load_model("demo_vllm", max_num_seqs=3)
        await joined.load_model("demo_vllm")
        request = VLLMRequest(prompt=PROMPT, max_tokens=4, temperature=0, stream=False)
        (response,) = [r async for r in joined.generate_stream(request)]
        assert response.tokens_generated == 4


def test_the_death_of_the_model_process_leaves_no_engine(vllm_server: TriadServer) -> None:
    """The last test of this server: it is not waited for until it is loaded again.

    It is Triton that notices, and it waits for its dead stub first.
    """
    victim = vllm.model_process(vllm_server)
    killed = vllm.killed_while_requests_run(vllm_server, victim, 15)
    wait_until(lambda: not any(map(lives, killed)))
