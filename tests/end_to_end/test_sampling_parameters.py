"""vLLM's parameters through `/v1`, the same on all engines."""

from __future__ import annotations

from typing import Any

import pytest

from backends.contract.sampling import PARAMETERS
from tests.support.server import TriadServer

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
END = 2
"""The token that ends an answer."""


def ask(server: TriadServer, model: str, **fields: Any) -> Any:  # noqa: ANN401
    """The choice of a whole answer to the question for France's capital."""
    body = {"model": model, "messages": FRANCE, "temperature": 0, "return_token_ids": True}
    response = server.post("/v1/chat/completions", body | fields)
    assert response.ok, response.text
    return response.json()["choices"][0]


def test_nothing_ends_an_answer_before_min_tokens(running: TriadServer, model: str) -> None:
    plain = ask(running, model)
    assert (plain["message"]["content"], plain["token_ids"][-1]) == (PARIS, END)
    long = ask(running, model, min_tokens=12, max_tokens=40)
    assert len(long["token_ids"]) > 12
    assert END not in long["token_ids"][:12]
    assert long["message"]["content"].startswith(PARIS)
    # Stop strings and stop tokens count from then on.
    (france,) = [i for i, id_ in enumerate(plain["token_ids"]) if id_ == plain["token_ids"][3]]
    for stop in ({"stop": ["France"]}, {"stop_token_ids": [plain["token_ids"][france]]}):
        assert ask(running, model, **stop)["message"]["content"].strip() == "The capital of"
    later = ask(running, model, stop=["France", "Paris"], min_tokens=5)
    assert later["message"]["content"] == "The capital of France is "
    ids = ask(running, model, stop_token_ids=[plain["token_ids"][3]], min_tokens=5)["token_ids"]
    assert plain["token_ids"][3] not in ids[:5]


def test_a_structure_ends_an_answer_that_is_short(running: TriadServer, model: str) -> None:
    choice = ask(running, model, min_tokens=15, structured_outputs={"choice": ["yes", "no"]})
    assert (choice["message"]["content"], choice["finish_reason"]) in [
        ("yes", "stop"),
        ("no", "stop"),
    ]
    more = ask(running, model, min_tokens=9, structured_outputs={"regex": "a{1,30}"})
    assert len(more["message"]["content"]) >= 9


def test_only_allowed_tokens_come(running: TriadServer, model: str) -> None:
    allowed = [259, 271, END]
    choice = ask(running, model, allowed_token_ids=allowed, max_tokens=5, temperature=1, seed=1)
    assert set(choice["token_ids"]) <= set(allowed)
    refused = {"model": model, "messages": FRANCE, "allowed_token_ids": [5000]}
    error = running.post("/v1/chat/completions", refused).json()["error"]
    assert (error["code"], error["param"]) == (400, "allowed_token_ids")


@pytest.mark.parametrize("route", ["chat/completions", "completions"])
def test_tokens_and_what_is_known_of_the_prompt(
    running: TriadServer, model: str, route: str
) -> None:
    prompt = {"messages": FRANCE} if route.startswith("chat") else {"prompt": "What is a token?"}
    body = {"model": model, "temperature": 0, "return_token_ids": True, "prompt_logprobs": 1}
    answer = running.post(f"/v1/{route}", body | prompt).json()
    choice = answer["choices"][0]
    assert len(choice["token_ids"]) == answer["usage"]["completion_tokens"]
    of_prompt = answer if route.startswith("chat") else choice
    ids = running.post("/tokenize", {"model": model} | prompt).json()["tokens"]
    assert of_prompt["prompt_token_ids"] == ids
    first, *entries = of_prompt["prompt_logprobs"]
    assert first is None
    for id_, entry in zip(ids[1:], entries, strict=True):
        assert set(entry[str(id_)]) == {"logprob", "rank", "decoded_token"}
        assert any(token["rank"] == 1 for token in entry.values())
        assert len(entry) <= 2
    streamed = running.post(
        f"/v1/{route}", body | prompt | {"stream": True, "prompt_logprobs": None}
    )
    assert f'"prompt_token_ids":{str(ids).replace(" ", "")}' in streamed.text
    assert streamed.text.count("prompt_token_ids") == 1


def test_other_ways_to_say_it(running: TriadServer, model: str) -> None:
    """What asks for nothing new, or for what there was under another name."""
    for fields in (
        {"top_p": 0, "temperature": 1},
        {"max_tokens": 64.0, "n": 1.0, "top_k": -1.0, "best_of": 1},
        {"logprobs": False, "top_logprobs": 0, "stream_options": {"include_usage": False}},
        {"stop": [f"nothing {number}" for number in range(250)]},
        {"length_penalty": 2, "early_stopping": True, "bad_words": [], "enable_thinking": False},
    ):
        assert ask(running, model, **fields)["message"]["content"] == PARIS, fields
    cut = ask(running, model, stop=" France", include_stop_str_in_output=True)
    assert cut["message"]["content"] == "The capital of France"
    named = ask(running, model, logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True)
    tokens = [entry["token"] for entry in named["logprobs"]["content"]]
    assert tokens == [f"token_id:{id_}" for id_ in named["token_ids"][:-1]]
    body = {"model": model, "prompt": "What is a token?", "max_completion_tokens": 3}
    assert running.post("/v1/completions", body).json()["usage"]["completion_tokens"] == 3


def test_a_range_that_is_only_vllms_is_the_callers_error(running: TriadServer, model: str) -> None:
    body = {"model": model, "messages": FRANCE, "temperature": 50, "max_tokens": 2}
    response = running.post("/v1/chat/completions", body)
    if model == "demo_vllm":
        assert (response.status_code, response.json()["error"]["param"]) == (400, "temperature")
    else:
        assert response.ok


VALUES: dict[str, Any] = {
    **{"temperature": 0.5, "max_tokens": 3, "stop": ["zzz"], "seed": 3, "logprobs": 2},
    **{"prompt_logprobs": 1, "logit_bias": {"5": 1}, "allowed_token_ids": [5, 6, END]},
    **{"stop_token_ids": [5], "guided": {"regex": "[a-z]{3}"}, "lora_name": "nobody"},
    **{"cache_salt": "x"},
}
BY_TYPE: dict[str, Any] = {"integer": 2, "number": 0.5, "boolean": True}


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_taken_or_refused_by_name(
    running: TriadServer, model: str, name: str
) -> None:
    parameter = PARAMETERS[name]
    engine = {"demo_onnx": "onnx", "demo_vllm": "vllm"}.get(model, "pytorch")
    value = VALUES[name] if name in VALUES else BY_TYPE[parameter.kind.type]
    body = {"model": model, "prompt": "What is a token?", "max_tokens": 4, name: value}
    response = running.post("/v1/completions", body)
    if name == "lora_name" or engine not in parameter.engines:  # the model has no adapters
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    else:
        assert response.ok, response.text


def test_top_n_sigma(running: TriadServer, model: str) -> None:
    """So narrow a filter leaves the most probable token alone, on every route."""
    narrow = {"model": model, "temperature": 2, "seed": 4, "top_n_sigma": 1e-6}
    for path, prompt in (
        ("/generate", {"prompt": "What is a token?"}),
        ("/chat", {"messages": FRANCE}),
        ("/v1/completions", {"prompt": "What is a token?"}),
        ("/v1/chat/completions", {"messages": FRANCE}),
    ):
        asked = prompt | {"max_tokens": 12}
        response = running.post(path, asked | narrow)
        if model == "demo_vllm":
            error = response.json()["error"]
            assert (error["code"], error["param"]) == (400, "top_n_sigma")
            assert "vLLM has no such parameter" in error["message"]
            continue
        greedy = running.post(path, asked | {"model": model, "temperature": 0})
        assert text_of(response.json()) == text_of(greedy.json())
        error = running.post(path, asked | narrow | {"top_n_sigma": -1}).json()["error"]
        assert (error["code"], error["param"]) == (400, "top_n_sigma")


def text_of(body: dict[str, Any]) -> str:
    """Return the text of a whole response of any of the routes."""
    choice = body["choices"][0] if "choices" in body else body
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    assert isinstance(text, str)
    return text
