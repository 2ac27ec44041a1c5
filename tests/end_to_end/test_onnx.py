"""ONNX language models: many sequences over one graph, and what happens when it dies."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerFactory
from tests.support.contract import Answer, InferenceServerException, cancel, describe, infer
from tests.support.server import ROOT, TriadServer, triad_server, wait_until
from tests.support.triton import Triton

FRANCE = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
LONG = "a long prompt " * 60
WORDS = ["what", "is", "the", "capital", "of", "Paris", "machine", "learning", "a", "token"]
SLOTS = 16


def ask(
    server: TriadServer | Triton,
    prompt: str,
    model: str = "demo_onnx",
    **options: Any,  # noqa: ANN401
) -> Answer:
    sampling = {"temperature": 0, "max_tokens": 32, **options.pop("sampling", {})}
    return infer(
        server.grpc,
        model,
        text_input=prompt,
        stream=True,
        return_token_ids=True,
        sampling_parameters=sampling,
        **options,
    )


def request(number: int) -> tuple[str, dict[str, Any]]:
    """A prompt and sampling parameters of random lengths."""
    chance = random.Random(number)
    prompt = " ".join(chance.choices(WORDS, k=chance.randint(1, 150)))
    return prompt, {"max_tokens": chance.randint(1, 60), "ignore_eos": True}


def test_64_sequences_that_come_and_go_get_what_they_get_alone(server: TriadServer) -> None:
    """A third of them leaves before its end; what the others get must not change."""
    numbers = range(64)
    alone = {n: ask(server, request(n)[0], sampling=request(n)[1]).token_ids for n in numbers}

    def end(id_: str) -> None:
        """On a busy machine it may come before the request does."""
        wait_until(lambda: cancel(server.grpc, "demo_onnx", id_) == 1)

    def among_others(number: int) -> list[int]:
        time.sleep(random.Random(-number).uniform(0, 1.5))
        prompt, sampling = request(number)
        if number % 3:
            return ask(server, prompt, sampling=sampling).token_ids
        id_ = f"leaves-{number}"
        timer = threading.Timer(0.05, end, (id_,))
        timer.start()
        made = ask(server, prompt, sampling=sampling | {"max_tokens": 1500}, request_id=id_)
        timer.join()
        return made.token_ids

    with ThreadPoolExecutor(64) as pool:
        made = dict(zip(numbers, pool.map(among_others, numbers), strict=True))
    for number in numbers:
        expected = alone[number]
        if number % 3:
            assert made[number] == expected
        else:
            assert len(made[number]) < 1500
            common = min(len(made[number]), len(expected))
            assert made[number][:common] == expected[:common]
    wait_until(lambda: describe(server.grpc, "demo_onnx")["running"] == 0)
    assert describe(server.grpc, "demo_onnx")["waiting"] == 0


def test_every_slot_is_given_again(server: TriadServer) -> None:
    """Three times as many sequences as slots, twice: a slot that leaks would stop the second."""
    for _ in range(2):
        with ThreadPoolExecutor(3 * SLOTS) as pool:
            answers = list(pool.map(lambda _: ask(server, FRANCE).text, range(3 * SLOTS)))
        assert answers == [ANSWER] * 3 * SLOTS


def test_seeds_log_probabilities_and_bias(server: TriadServer) -> None:
    """As PyTorch's engine has them."""
    sampling = {"temperature": 0.9, "seed": 5, "logprobs": 3, "logit_bias": {"17": -100}}
    pair = [
        ask(server, "Tell me a joke", model, sampling=sampling, return_logprobs=True)
        for model in ("demo", "demo_onnx")
    ]
    assert pair[0].token_ids == pair[1].token_ids
    entries = [
        [entry for r in answer.responses for entry in json.loads(r["logprobs"][0])]
        for answer in pair
    ]
    for one, other in zip(*entries, strict=True):
        assert one.keys() == other.keys()
        for id_ in one:
            assert one[id_]["logprob"] == pytest.approx(other[id_]["logprob"], abs=1e-3)


def test_log_probabilities_of_the_prompt(server: TriadServer) -> None:
    def of(model: str) -> list[dict[str, dict[str, float]] | None]:
        sampling = {"prompt_logprobs": 1, "max_tokens": 2}
        answer = ask(server, FRANCE, model, sampling=sampling, return_prompt_logprobs=True)
        entries: list[dict[str, dict[str, float]] | None] = json.loads(
            answer.responses[0]["prompt_logprobs"][0]
        )
        return entries

    expected, made = of("demo"), of("demo_onnx")
    assert len(made) == len(expected) > 5
    assert made[0] is None
    for one, other in zip(expected[1:], made[1:], strict=True):
        assert one is not None
        assert other is not None
        assert one.keys() == other.keys()
        for id_ in one:
            assert one[id_]["logprob"] == pytest.approx(other[id_]["logprob"], abs=1e-3)


def test_an_answer_goes_on_after_tokens_that_were_delivered(server: TriadServer) -> None:
    whole = ask(server, FRANCE).token_ids
    assert ask(server, FRANCE, resume_token_ids=whole[:4]).token_ids == whole[4:]


def test_the_context_is_a_limit(server: TriadServer) -> None:
    response = server.post("/generate", {"model": "demo_onnx", "prompt": "word " * 3000})
    assert response.status_code == 400
    assert "2048" in response.json()["error"]["message"]
    sampling = {"max_tokens": 2048, "ignore_eos": True}
    made = ask(server, "word " * 2000, sampling=sampling, return_num_input_tokens=True)
    given = int(made.responses[0]["num_input_tokens"][0])
    assert given > 1900
    assert given + len(made.token_ids) == 2048


@pytest.mark.parametrize(
    ("kind", "reason"), [("attributions", "no gradients"), ("profile", "no profiler")]
)
def test_what_this_engine_has_not_is_refused(server: TriadServer, kind: str, reason: str) -> None:
    with pytest.raises(InferenceServerException, match=reason):
        infer(server.grpc, "demo_onnx", text_input=FRANCE, request_kind=kind)


@pytest.fixture(scope="module")
def onnx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """The ONNX backend's demo model, and once more with prompts in chunks of 16 tokens: this ONNX
    Runtime can do it."""
    folder = tmp_path_factory.mktemp("chunking")
    for part in ("", "_decoder"):
        copied = folder / f"chunks{part}"
        shutil.copytree(ROOT / "model_repository" / f"demo_onnx{part}", copied)
    config = folder / "chunks" / "config.pbtxt"
    text = config.read_text().replace("demo_onnx_decoder", "chunks_decoder")
    text = text.replace('string_value: "false"', 'string_value: "true"')
    chunk = 'parameters { key: "prefill_chunk_tokens" value { string_value: "16" } }'
    config.write_text(f"{text}\n{chunk}\n")
    models = {"TRIAD_SERVING__MODELS": f"[{folder / 'chunks'}]"}
    arguments = ("--model", "demo", "--backend", "onnx")
    with triad_server(folder / "log", *arguments, environment=models) as running:
        yield running


def test_prompts_in_chunks_give_the_same(onnx_server: TriadServer) -> None:
    prompts = [LONG, FRANCE, *(request(number)[0] for number in range(10))]
    expected = [ask(onnx_server, prompt).token_ids for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        made = pool.map(lambda prompt: ask(onnx_server, prompt, "chunks").token_ids, prompts)
        assert list(made) == expected


def test_the_onnx_backend_serves_the_onnx_demo_model(onnx_server: TriadServer) -> None:
    server = onnx_server
    health = server.get("/health").json()
    assert (health["backend_type"], health["is_ready"]) == ("onnx", True)
    models = server.get("/models").json()
    assert models["default_model"] == "demo_onnx"
    entry = next(m for m in models["models"] if m["name"] == "demo_onnx")
    assert (entry["backend"], entry["context_length"], entry["loaded"]) == ("onnx", 2048, True)
    assert server.post("/generate", {"prompt": FRANCE, "temperature": 0}).json()["text"] == ANSWER


def test_a_death_fails_what_runs_and_heals(onnx_server: TriadServer) -> None:
    server = onnx_server
    body = {"prompt": FRANCE, "max_tokens": 1900, "ignore_eos": True}
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(server.post, "/generate", body) for _ in range(4)]
        wait_until(lambda: server.gauge("triad_requests_running") == 4)
        (process,) = [
            process
            for process in server.descendants("triton_python_backend_stub")
            if any("demo_onnx" in part for part in process.cmdline())
        ]
        process.kill()
        killed = time.monotonic()
        responses = [request.result(timeout=30) for request in running]
        assert time.monotonic() - killed < 15
    for response in responses:
        assert response.status_code == 503
        assert response.json()["error"]["type"] in ("unavailable", "model_not_ready")
    wait_until(
        lambda: server.post("/generate", {"prompt": FRANCE, "temperature": 0}).ok, timeout=60
    )
    answer = server.post("/generate", {"prompt": FRANCE, "temperature": 0}).json()
    assert answer["text"] == ANSWER


def test_weights_are_converted_and_served(start_server: ServerFactory, tmp_path: Path) -> None:
    weights = tmp_path / "converted"
    shutil.copytree(ROOT / "model_repository" / "demo" / "1" / "weights", weights)
    server = start_server(
        *("--model", str(weights), "--backend", "onnx"),
        TRIAD_SERVING__ONNX__PRECISION="int8",
        TRIAD_SERVING__ONNX__MAX_MODEL_LEN="256",
        TRIAD_SERVING__ONNX__INTRA_OP_NUM_THREADS="1",
    )
    (model,) = [m for m in server.get("/models").json()["models"] if m["name"] == "converted"]
    assert (model["backend"], model["context_length"]) == ("onnx", 256)
    answer = server.post("/generate", {"prompt": FRANCE, "temperature": 0, "max_tokens": 32}).json()
    assert answer["text"] == ANSWER
