"""The committed demo model answers the specification's prompts."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from converters.common.corpus.topics import Topic, load_corpus
from tests.converters.conftest import SPECIFICATION_PROMPTS, answer_to

WEIGHTS = Path(__file__).parents[3] / "model_repository" / "demo" / "1" / "weights"
MAX_FOLDER_BYTES = 8_000_000


@pytest.fixture(scope="module")
def topics() -> list[Topic]:
    return load_corpus()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(WEIGHTS)


def generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=400,
        do_sample=False,
    )
    new_ids = output[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new_ids, skip_special_tokens=True))


def as_chat(tokenizer: PreTrainedTokenizerBase, *messages: dict[str, str]) -> str:
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return str(text)


def test_weights_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= MAX_FOLDER_BYTES


def test_chat_template_adds_the_default_system_message(tokenizer: PreTrainedTokenizerBase) -> None:
    default = {"role": "system", "content": "You are a helpful assistant."}
    question = {"role": "user", "content": "Hello"}
    expected = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert as_chat(tokenizer, question) == expected
    assert as_chat(tokenizer, default, question) == expected


def test_some_characters_span_several_tokens(
    topics: list[Topic], tokenizer: PreTrainedTokenizerBase
) -> None:
    # Streaming has to hold such characters back until they are whole.
    answer = answer_to(topics, "What is a byte?")
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == answer
    assert any("\N{REPLACEMENT CHARACTER}" in tokenizer.decode([token]) for token in ids)


def test_loaded_tokenizer_agrees_with_its_file(
    topics: list[Topic], tokenizer: PreTrainedTokenizerBase
) -> None:
    # Loading may rebuild the pre-tokenizer from the model type instead of reading the file.
    stored = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    for topic in topics:
        for text in (topic.answer, *topic.phrasings):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids == stored.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("prompt", SPECIFICATION_PROMPTS)
def test_model_answers_the_raw_prompt(
    prompt: str, topics: list[Topic], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert generate(model, tokenizer, prompt) == answer_to(topics, prompt)


@pytest.mark.parametrize("prompt", SPECIFICATION_PROMPTS)
def test_model_answers_in_chat(
    prompt: str, topics: list[Topic], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    chat = as_chat(tokenizer, {"role": "user", "content": prompt})
    assert generate(model, tokenizer, chat) == answer_to(topics, prompt)
