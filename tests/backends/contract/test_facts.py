"""What a model says of itself, from one process to the other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.contract.facts import ChatFacts, FactsError, GpuMemory, ModelFacts

LEAST: dict[str, Any] = {"backend": "pytorch", "type": "causal_lm", "context_length": 8}
FULL = ModelFacts(
    **LEAST,
    gpus=(GpuMemory(total=3, used=1, free=2),),
    chat=ChatFacts(template=True, tools="hermes", reasoning=("<think>", "</think>")),
    labels=("a", "b"),
    kv_cache_usage=0.5,
    cuda_graphs=False,
)


def read(**values: Any) -> ModelFacts:  # noqa: ANN401
    return ModelFacts.from_json(json.dumps(LEAST | values))


def test_what_is_written_is_read() -> None:
    assert ModelFacts.from_json(FULL.to_json()) == FULL


def test_what_an_engine_does_not_say_is_not_written_and_has_a_default() -> None:
    written = json.loads(ModelFacts(**LEAST).to_json())
    assert LEAST.items() <= written.items()
    assert "labels" not in written
    facts = read()
    assert (facts.running, facts.gpus, facts.labels, facts.chat) == (0, (), None, ChatFacts())


def test_facts_of_a_newer_model_are_ignored() -> None:
    assert read(colour="blue", chat={"template": True, "colour": "blue"}).chat.template


def test_an_engine_says_nothing_that_is_not_described() -> None:
    with pytest.raises(FactsError, match=r"^colour: is no fact of a model"):
        ModelFacts.of(LEAST | {"colour": "blue"})


@pytest.mark.parametrize("name", LEAST)
def test_some_facts_must_be_there(name: str) -> None:
    with pytest.raises(FactsError, match=f"^{name}: is missing"):
        read(**{name: None})


@pytest.mark.parametrize("text", ["", "[]", "null", "nonsense"])
def test_facts_are_a_json_object(text: str) -> None:
    with pytest.raises(FactsError, match=r"^the facts"):
        ModelFacts.from_json(text)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"context_length": "8"}, "context_length"),
        ({"context_length": 8.5}, "context_length"),
        ({"parameters": True}, "parameters"),
        ({"metrics": 1}, "metrics"),
        ({"kv_cache_usage": "high"}, "kv_cache_usage"),
        ({"gpus": {}}, "gpus"),
        ({"gpus": [{"total": 1, "used": "1", "free": 0}]}, r"gpus\[0\].used"),
        ({"gpus": [{"total": 1}]}, r"gpus\[0\]"),
        ({"chat": {"tools": "klingon"}}, "chat.tools"),
        ({"chat": {"reasoning": ["<think>"]}}, "chat.reasoning"),
        ({"labels": ["a", 1]}, r"labels\[1\]"),
    ],
)
def test_a_wrong_type_is_named(values: dict[str, Any], name: str) -> None:
    with pytest.raises(FactsError, match=f"^{name}: "):
        read(**values)


def test_whole_numbers_are_numbers() -> None:
    assert read(kv_cache_usage=1).kv_cache_usage == 1.0
