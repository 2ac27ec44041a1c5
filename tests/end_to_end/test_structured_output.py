"""Structured output through the gateway and a real Triton, on the engines that have it."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from tests.support.contract import InferenceServerException, infer
from tests.support.schemas import Schema
from tests.support.server import TriadServer
from tests.support.structured import HOSTILE, PROMPT, SCHEMAS, answers_validate, generate

ENGINES = ("demo", "demo_onnx")

every_engine = pytest.mark.parametrize("model", ENGINES)


def refusal(server: TriadServer, model: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401
    response = server.post("/generate", {"model": model, "prompt": PROMPT, **body})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@every_engine
def test_every_completed_answer_validates(server: TriadServer, model: str) -> None:
    answers_validate(server, model)


@every_engine
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_each_kind(server: TriadServer, model: str, temperature: float) -> None:
    def text(**guided: Any) -> str:  # noqa: ANN401
        answer = generate(server, model, guided=guided, temperature=temperature)
        assert answer["finish_reason"] == "stop"
        return str(answer["text"])

    assert text(choice=["Berlin", "Oslo 😀"]) in ("Berlin", "Oslo 😀")
    assert re.fullmatch(r"[0-9]{3}-[a-zä]{2}", text(regex="[0-9]{3}-[a-zä]{2}"))
    assert re.fullmatch(r"(x|yz){3}!", text(grammar='root ::= p p p "!"\np ::= "x" | "yz"'))
    assert text(json={"const": {"a": [1, None]}}).replace(" ", "") == '{"a":[1,null]}'


@every_engine
def test_any_object(server: TriadServer, model: str) -> None:
    answer = generate(server, model, response_format={"type": "json_object"}, max_tokens=40)
    if answer["finish_reason"] == "stop":
        assert isinstance(json.loads(answer["text"]), dict)
    assert answer["text"].startswith("{")


@every_engine
def test_a_stream_and_a_chat_keep_to_it_too(server: TriadServer, model: str) -> None:
    body = {"model": model, "guided": {"regex": "[a-c]{30}"}, "max_tokens": 60}
    message = {"messages": [{"role": "user", "content": PROMPT}]}
    chat = server.post("/chat", body | message).json()
    assert re.fullmatch("[a-c]{30}", chat["message"]["content"])
    lines = server.post("/generate", body | {"prompt": PROMPT, "stream": True}).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert re.fullmatch("[a-c]{30}", "".join(event["text"] for event in events))
    assert events[-1]["finish_reason"] == "stop"


@every_engine
def test_unguided_requests_get_beside_guided_ones_what_they_get_alone(
    server: TriadServer, model: str
) -> None:
    def unguided(number: int) -> str:
        options = {"temperature": 0} if number % 2 else {"seed": number, "top_k": 20}
        return str(
            generate(server, model, prompt=f"{number}: go", max_tokens=24, **options)["text"]
        )

    def guided(number: int) -> str:
        answer = generate(server, model, seed=number, guided={"json": SCHEMAS[number]})
        return str(answer["text"])

    alone = [unguided(n) for n in range(8)], [guided(n) for n in range(8)]
    with ThreadPoolExecutor(16) as pool:
        among = pool.map(unguided, range(8)), pool.map(guided, range(8))
        assert (list(among[0]), list(among[1])) == alone


@every_engine
def test_resuming_goes_on_in_the_grammar(server: TriadServer, model: str) -> None:
    sampling = {"guided": {"regex": "[a-z]{4}-[0-9]{12}!"}, "max_tokens": 40, "seed": 3}
    inputs: dict[str, Any] = {"text_input": PROMPT, "stream": True, "return_token_ids": True}
    whole = infer(server.grpc, model, sampling_parameters=sampling, **inputs)
    assert re.fullmatch("[a-z]{4}-[0-9]{12}!", whole.text)
    for cut in (1, len(whole.token_ids) - 1):
        rest = infer(
            server.grpc,
            model,
            sampling_parameters=sampling,
            resume_token_ids=whole.token_ids[:cut],
            **inputs,
        )
        assert rest.token_ids == whole.token_ids[cut:]
    with pytest.raises(InferenceServerException, match="resume_token_ids: do not fit `guided`"):
        infer(
            server.grpc,
            model,
            sampling_parameters=sampling,
            resume_token_ids=whole.token_ids[-1:],
            **inputs,
        )


@every_engine
def test_stop_strings_still_stop(server: TriadServer, model: str) -> None:
    answer = generate(server, model, guided={"regex": "[a-z]{3};[a-z]{3}"}, stop_sequences=[";"])
    assert re.fullmatch("[a-z]{3}", answer["text"])
    assert answer["finish_reason"] == "stop"


@every_engine
@pytest.mark.parametrize(
    ("guided", "says"),
    [
        ({"json": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"json": {"not": {"type": "null"}}}, "not"),
        ({"json": {"$ref": "http://127.0.0.1/schema"}}, "schema"),
        ({"json": {"type": "strin"}}, "strin"),
        ({"json": False}, "cannot be kept to"),
        ({"json": {"type": "integer", "multipleOf": 1999993}}, "multipleOf"),
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": "(a|aa){1000}{1000}"}, "at most 50000 parts"),
        ({"grammar": "root ::= root"}, "cannot be kept to"),
        ({"grammar": "start ::= root"}, "GBNF"),
        ({"json": {"enum": [{"a": i} for i in range(8100)]}}, "cannot be kept to"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_be_kept_to_is_a_400(
    server: TriadServer, model: str, guided: dict[str, Any], says: str
) -> None:
    error = refusal(server, model, guided=guided)
    assert error["param"] == "guided"
    assert says in error["message"]
    assert len(error["message"]) < 400


def test_errors_name_the_spelling_that_was_used(server: TriadServer) -> None:
    wrapped = {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}
    assert refusal(server, "demo", response_format=wrapped)["param"] == "response_format"
    assert refusal(server, "demo", response_format={"type": "xml"})["param"] == "response_format"
    both = {"response_format": {"type": "json_object"}, "guided": {"json_object": True}}
    assert refusal(server, "demo", **both)["param"] == "response_format"


def test_an_engine_without_it_refuses(server: TriadServer) -> None:
    for name, value in (
        ("guided", {"regex": "a"}),
        ("response_format", {"type": "json_object"}),
    ):
        error = refusal(server, "scripted", prompt="{}", **{name: value})
        assert error["param"] == name
        assert "not possible with this engine" in error["message"]


HARD: Schema = {"enum": [{"a": number, "b": [number]} for number in range(8100)]}
"""Takes more than a second to compile, and is refused then."""


@every_engine
def test_compiling_does_not_hold_up_tokens(server: TriadServer, model: str) -> None:
    stop = threading.Event()

    def compile_on_and_on() -> None:
        while not stop.is_set():
            refusal(server, model, guided={"json": HARD})

    def gaps() -> list[float]:
        times = []
        body = {"model": model, "prompt": PROMPT, "max_tokens": 120, "ignore_eos": True}
        with server.post("/generate", body | {"stream": True}, stream=True) as response:
            for _ in response.iter_lines():
                times.append(time.monotonic())
        return [b - a for a, b in pairwise(times)]

    began = time.monotonic()
    refusal(server, model, guided={"json": HARD})
    compiling = time.monotonic() - began
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(compile_on_and_on)
        time.sleep(compiling / 2)
        measured = gaps()
        stop.set()
        busy.result()
    assert max(measured) < compiling / 2


@every_engine
def test_hostile_requests_are_refused_and_hurt_nobody(server: TriadServer, model: str) -> None:
    def models() -> set[int]:
        return {process.pid for process in server.descendants("triton_python")}

    before = models()
    body = {"model": model, "prompt": PROMPT, "max_tokens": 400, "ignore_eos": True}
    with server.post("/generate", body | {"stream": True}, stream=True) as beside:
        lines = beside.iter_lines()
        next(lines)
        for guided in HOSTILE:
            error = refusal(server, model, guided=guided)
            assert error["param"] == "guided"
            assert len(error["message"]) < 400
        last = json.loads([line for line in lines if line][-1].removeprefix(b"data: "))
    assert last["finish_reason"] == "length"
    assert models() == before


@every_engine
def test_slow_grammars_do_not_hold_up_other_streams(server: TriadServer, model: str) -> None:
    """Of each token of theirs, tens of milliseconds are spent on finding what may come."""
    slow = {"json": {"type": "object", "properties": {f"p{i}": {} for i in range(1500)}}}
    stop = threading.Event()

    def ask_on_and_on(seed: int) -> None:
        while not stop.is_set():
            body = {"model": model, "prompt": PROMPT, "max_tokens": 60, "seed": seed}
            assert server.post("/generate", body | {"guided": slow}).status_code in (200, 503)

    def gaps() -> list[float]:
        body = {"model": model, "prompt": PROMPT, "max_tokens": 60, "ignore_eos": True}
        with server.post("/generate", body | {"stream": True}, stream=True) as response:
            times = [time.monotonic() for line in response.iter_lines() if line]
        return [b - a for a, b in pairwise(times)]

    generate(server, model, guided=slow, max_tokens=2)  # it is compiled now
    alone = median(gaps())
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(ask_on_and_on, seed) for seed in range(8)]
        time.sleep(0.5)
        beside = median(gaps())
        stop.set()
        for other in others:
            other.result()
    assert beside < max(0.5, 20 * alone)


@every_engine
def test_fixed_text_that_spells_a_special_token(server: TriadServer, model: str) -> None:
    text = "x<|im_end|>y e\u0301<|endoftext|>"
    for guided in ({"choice": [text]}, {"json": {"const": text}}):
        answer = generate(server, model, guided=guided)
        assert answer["finish_reason"] == "stop"
        assert answer["text"] in (text, json.dumps(text, ensure_ascii=False))
