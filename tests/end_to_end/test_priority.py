"""The class of a request reaches its engine, and a better one does not wait behind a crowd."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import requests

from tests.support.contract import InferenceServerException, describe, infer
from tests.support.server import TriadServer, wait_until

CROWD = 24  # more than there are slots
TOKENS = 400


def body(model: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    sampling = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    return {"model": model, "prompt": "Once upon a time", **sampling, **more}


@pytest.mark.parametrize("priority", ["high", "normal", "low", -3])
def test_the_answer_is_the_same_in_each_class(
    running: TriadServer, model: str, priority: str | int
) -> None:
    expected = running.post("/generate", body(model)).json()["text"]
    response = running.post("/generate", body(model, priority=priority))
    assert response.json()["text"] == expected
    assert response.headers["x-triad-queue-depth"] == "0"
    assert int(response.headers["x-triad-queue-wait-ms"]) >= 0
    assert response.headers["x-triad-priority"] == (
        "normal" if priority in ("high", -3) else priority
    )


@pytest.mark.parametrize("name", ["demo", "demo_onnx"])
def test_a_better_class_does_not_wait_behind_a_crowd(server: TriadServer, name: str) -> None:
    ended: list[float] = []
    stop = threading.Event()

    def one(number: int) -> None:
        low = body(name, prompt=f"{number}: tell me", max_tokens=TOKENS, priority="low")
        with requests.post(
            f"{server.url}/generate", json=low | {"stream": True}, stream=True, timeout=120
        ) as response:
            for _ in response.iter_lines():
                if stop.is_set():
                    return
        ended.append(time.monotonic())

    crowd = [threading.Thread(target=one, args=(number,)) for number in range(CROWD)]
    for thread in crowd:
        thread.start()
    try:
        wait_until(lambda: describe(server.grpc, name)["waiting"] > 0)
        before = describe(server.grpc, name)["preemptions"]
        response = server.post("/generate", body(name, max_tokens=2))
        answered = time.monotonic()
    finally:
        stop.set()
        for thread in crowd:
            thread.join()
    assert response.status_code == 200
    assert not [end for end in ended if end < answered]
    assert describe(server.grpc, name)["preemptions"] > before
    wait_until(lambda: describe(server.grpc, name)["requests"] == 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "urgent"),
        ("caller", "a b"),
        ("timeout_ms", [0]),
        ("first_token_timeout_ms", [-1]),
    ],
)
def test_a_tensor_that_is_wrong_is_named(
    running: TriadServer, model: str, field: str, value: object
) -> None:
    inputs: dict[str, Any] = {"text_input": "Hi", field: value}
    with pytest.raises(InferenceServerException, match=f"^{field}: must"):
        infer(running.grpc, model, **inputs)
