"""`POST /generate` and `POST /chat`: the specification's shapes, whole and streamed."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support.server import TriadServer

COUNT = json.dumps({"tokens": 5, "interval_ms": 5})


def events(response: requests.Response) -> list[dict[str, Any]]:
    assert response.headers["Content-Type"].startswith("text/event-stream")
    lines = [line for line in response.iter_lines(decode_unicode=True) if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_generate_has_the_documented_shape(server: TriadServer) -> None:
    """The specification's own request, all fields given."""
    response = server.post(
        "/generate",
        {
            "prompt": "What is machine learning?",
            "max_tokens": 512,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 50,
            "repetition_penalty": 1.1,
            "stop_sequences": ["\n\n"],
            "stream": False,
            "metadata": {"user_id": "user123", "session_id": "session456"},
        },
    )
    body = response.json()
    assert list(body) == [
        "text",
        "request_id",
        "tokens_generated",
        "generation_time",
        "tokens_per_second",
        "finish_reason",
        "metadata",
    ]
    assert body["text"].startswith("Machine learning is a subset of artificial intelligence")
    assert re.fullmatch(r"req_[0-9a-f]+", body["request_id"])
    assert body["finish_reason"] == "stop"
    assert body["metadata"] == {"model_name": "demo", "backend": "pytorch"}
    assert isinstance(body["tokens_generated"], int)
    assert body["generation_time"] > 0
    assert body["tokens_per_second"] > 0


def test_chat_has_the_documented_shape(server: TriadServer) -> None:
    response = server.post(
        "/chat",
        {
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "What is the capital of France?"},
            ],
            "max_tokens": 512,
            "temperature": 0.7,
            "stream": False,
        },
    )
    body = response.json()
    assert list(body) == [
        "message",
        "request_id",
        "tokens_generated",
        "generation_time",
        "finish_reason",
    ]
    assert body["message"] == {"role": "assistant", "content": "The capital of France is Paris."}
    assert body["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/generate", {"prompt": COUNT}),
        ("/chat", {"messages": [{"role": "user", "content": COUNT}]}),
    ],
)
def test_streams_have_the_documented_events(
    server: TriadServer, path: str, prompt: dict[str, Any]
) -> None:
    response = server.post(path, {"model": "scripted", "stream": True, **prompt}, stream=True)
    *texts, final = events(response)
    request_id = response.headers["X-Request-Id"]
    assert [set(event) for event in texts] == [{"text", "request_id", "tokens_generated"}] * len(
        texts
    )
    assert "".join(event["text"] for event in texts) == "0 1 2 3 4 "
    assert texts[-1]["tokens_generated"] == 5
    assert final == {"text": "", "request_id": request_id, "finish_reason": "stop", "final": True}
    assert {event["request_id"] for event in texts} == {request_id}


def test_streamed_and_whole_text_are_equal(server: TriadServer) -> None:
    body = {"prompt": "Tell me a joke", "temperature": 0.9, "seed": 7, "max_tokens": 256}
    whole = server.post("/generate", body).json()
    *texts, final = events(server.post("/generate", {**body, "stream": True}, stream=True))
    assert "".join(event["text"] for event in texts) == whole["text"] != ""
    assert texts[-1]["tokens_generated"] <= whole["tokens_generated"]
    assert final["finish_reason"] == whole["finish_reason"]


def test_the_end_is_told_truthfully(server: TriadServer) -> None:
    def ask(**fields: object) -> dict[str, Any]:
        body = {"model": "scripted", "prompt": json.dumps({"tokens": 5}), **fields}
        answer: dict[str, Any] = server.post("/generate", body).json()
        return answer

    cut = ask(max_tokens=3)
    assert (cut["text"], cut["tokens_generated"], cut["finish_reason"]) == ("0 1 2 ", 3, "length")
    stopped = ask(stop_sequences=["2 3"])
    assert (stopped["text"], stopped["finish_reason"]) == ("0 1 ", "stop")
    assert stopped["tokens_generated"] == 4


def test_stop_sequences_never_appear_in_a_stream(server: TriadServer) -> None:
    body = {"model": "scripted", "prompt": COUNT, "stream": True, "stop_sequences": ["3 4"]}
    *texts, final = events(server.post("/generate", body, stream=True))
    assert "".join(event["text"] for event in texts) == "0 1 2 "
    assert final["finish_reason"] == "stop"


def test_an_error_before_the_first_token_keeps_its_status(server: TriadServer) -> None:
    body = {"model": "scripted", "prompt": json.dumps({"fail_at": 0}), "stream": True}
    response = server.post("/generate", body)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "engine_error"


def test_an_error_after_it_is_the_last_event(server: TriadServer) -> None:
    script = json.dumps({"fail_at": 3, "interval_ms": 5})
    response = server.post("/generate", {"model": "scripted", "prompt": script, "stream": True})
    *texts, last = events(response)
    assert response.status_code == 200
    assert "".join(event["text"] for event in texts) == "0 1 2 "
    assert last["error"] == {
        "message": "the script fails at token 3",
        "type": "engine_error",
        "param": None,
        "code": 500,
    }
    assert last["request_id"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("my-id.1", True), ("x" * 129, False), ("a b", False), ("a;b", False)],
)
def test_request_ids(server: TriadServer, given: str, kept: bool) -> None:
    body = {"model": "scripted", "prompt": json.dumps({"tokens": 1})}
    response = server.post("/generate", body, headers={"X-Request-Id": given})
    assert (response.headers["X-Request-Id"] == given) is kept
    assert response.json()["request_id"] == response.headers["X-Request-Id"]


def test_each_request_is_logged_with_its_metadata(server: TriadServer) -> None:
    body = {"model": "scripted", "prompt": '{"tokens": 3}', "metadata": {"user_id": "user123"}}
    request_id = server.post("/generate", body).json()["request_id"]
    line = next(line for line in server.log.read_text().splitlines() if request_id in line)
    assert f"{request_id} scripted: stop, 3 tokens" in line
    assert "'user_id': 'user123'" in line


def test_the_model_is_chosen_by_name(server: TriadServer) -> None:
    default = server.post("/generate", {"prompt": "What is the capital of France?"}).json()
    assert default["metadata"]["model_name"] == "demo"
    chosen = server.post("/generate", {"model": "scripted", "prompt": '{"tokens": 1}'}).json()
    assert chosen["metadata"] == {"model_name": "scripted", "backend": "scripted"}


def test_a_request_that_takes_too_long(start_server: Any) -> None:  # noqa: ANN401
    server = start_server(TRIAD_SERVING__REQUEST_TIMEOUT="2")
    script = {"prompt": json.dumps({"hang_at": 2, "interval_ms": 5})}
    response = server.post("/generate", script)
    assert (response.status_code, response.json()["error"]["type"]) == (504, "deadline_exceeded")
    *_, last = events(server.post("/generate", {**script, "stream": True}))
    assert last["error"]["code"] == 504


def test_a_full_queue_refuses_at_once(start_server: Any) -> None:  # noqa: ANN401
    server = start_server(
        *("--model", "demo"),
        TRIAD_SERVING__PYTORCH__MAX_NUM_SEQS="1",
        TRIAD_SERVING__PYTORCH__MAX_QUEUE_SIZE="1",
    )
    body = {"prompt": "Hello", "max_tokens": 100, "ignore_eos": True}
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: server.post("/generate", body), range(8)))
    served = [r for r in responses if r.ok]
    refused = [r for r in responses if not r.ok]
    assert len(served) >= 2
    assert refused
    assert {r.json()["tokens_generated"] for r in served} == {100}
    for response in refused:
        assert (response.status_code, response.json()["error"]["type"]) == (503, "overloaded")
        assert response.headers["Retry-After"] == "1"
    assert server.post("/generate", {"prompt": "Hello"}).ok
