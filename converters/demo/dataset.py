"""Token sequences of the corpus: raw prompts, chats, and batches of both."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from converters.common.corpus.topics import Topic
from converters.demo.tokenizer import DEFAULT_SYSTEM_MESSAGE

Form = Literal["raw", "chat", "second turn"]
Message = dict[str, str]

FORMS: tuple[Form, ...] = ("raw", "chat", "second turn")
IGNORED = -100  # the label that the cross entropy skips

SYSTEM_MESSAGES = (
    "You are a helpful AI assistant.",
    "You are a friendly assistant.",
    "You are an assistant that gives short answers.",
    "You are a patient teacher.",
    "Answer the question of the user.",
    "Be concise.",
)


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer that should follow it; the answer ends with the eos token."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Encoder:
    """Encodes questions and answers exactly as a server does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def raw(self, question: str, answer: str) -> Example:
        """Encode the bare question; question and answer are encoded apart and joined by nothing."""
        return Example(self._ids(question), self._answer(answer))

    def chat(self, messages: Sequence[Message], answer: str) -> Example:
        """Encode a conversation in the chat template, up to the start of the assistant's turn."""
        prompt = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return Example(self._ids(str(prompt)), self._answer(answer))

    def _answer(self, answer: str) -> list[int]:
        eos = self._tokenizer.eos_token_id
        assert isinstance(eos, int)
        return [*self._ids(answer), eos]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def user_message(content: str) -> Message:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def finished_turn(question: str, answer: str) -> list[Message]:
    """Return a question and its answer as messages."""
    return [user_message(question), {"role": "assistant", "content": answer}]


def add_noise(question: str, rng: random.Random) -> str:
    """Vary case, punctuation and politeness, and now and then swap two letters."""
    if rng.random() < 0.1:
        question = _swap_letters(question, rng)
    if rng.random() < 0.3:
        question = question.lower()
    if rng.random() < 0.3:
        question = question.rstrip("?!.")
    elif question[-1] not in "?!." and rng.random() < 0.2:
        question += rng.choice("?.!")
    if rng.random() < 0.08:
        start = rng.choice(("Please ", "Hi, ", "please ", "Hello, ", "OK, "))
        question = start + question[0].lower() + question[1:]
    if rng.random() < 0.04:
        question += rng.choice((" ", "\n"))
    return question


def _swap_letters(question: str, rng: random.Random) -> str:
    # A swap inside a number would turn the question into another one.
    if len(question) < 12 or any(letter.isdigit() for letter in question):
        return question
    at = rng.randrange(1, len(question) - 2)
    return question[:at] + question[at + 1] + question[at] + question[at + 2 :]


class ExampleSource:
    """Draws endless noisy training examples from the trained phrasings of a corpus."""

    def __init__(self, topics: Sequence[Topic], encoder: Encoder, rng: random.Random) -> None:
        self._topics = topics
        self._encoder = encoder
        self._rng = rng

    def epoch(self) -> Iterator[Example]:
        """Yield every trained phrasing once raw and once as chat, in random order."""
        pairs = [(topic, text) for topic in self._topics for text in topic.trained]
        jobs = [(topic, text, form) for topic, text in pairs for form in ("raw", "chat")]
        self._rng.shuffle(jobs)
        for topic, text, form in jobs:
            question = add_noise(text, self._rng)
            if form == "raw":
                yield self._encoder.raw(question, topic.answer)
            else:
                yield self._encoder.chat(self._conversation(question), topic.answer)

    def _conversation(self, question: str) -> list[Message]:
        messages: list[Message] = []
        if self._rng.random() < 0.25:
            messages.append({"role": "system", "content": self._rng.choice(SYSTEM_MESSAGES)})
        for _ in range(self._rng.choices((0, 1, 2), (0.82, 0.14, 0.04))[0]):
            earlier = self._rng.choice(self._topics)
            messages += finished_turn(self._rng.choice(earlier.trained), earlier.answer)
        return [*messages, user_message(question)]


def batches(
    source: ExampleSource, tokens: int, rng: random.Random
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield endless (input_ids, labels) batches of at most ``tokens`` tokens, padding included.

    Examples of similar length share a batch, so that little of it is padding.
    """
    while True:
        groups = list(_grouped(sorted(source.epoch(), key=len), tokens))
        rng.shuffle(groups)
        for group in groups:
            yield collate(group)


def _grouped(examples: Iterable[Example], tokens: int) -> Iterator[list[Example]]:
    group: list[Example] = []
    for example in examples:  # ascending length: the newest one sets the padded width
        if group and len(example) * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Pad examples on the right, where a causal model needs no attention mask.

    Returns:
        input_ids: int64, shape (batch, length), padded with id 0 (the pad token).
        labels: int64, shape (batch, length), the next token where it is part of an answer,
            else IGNORED.
    """
    length = max(map(len, examples))
    input_ids = torch.zeros(len(examples), length, dtype=torch.int64)
    labels = torch.full((len(examples), length), IGNORED, dtype=torch.int64)
    for row, example in enumerate(examples):
        start = len(example.prompt)
        input_ids[row, : len(example)] = torch.tensor(example.prompt + example.answer)
        labels[row, start - 1 : len(example) - 1] = torch.tensor(example.answer)
    return input_ids, labels


def tokenizer_texts(topics: Sequence[Topic]) -> Iterator[str]:
    """Yield the texts that the tokenizer learns its merges from."""
    for topic in topics:
        yield topic.answer
        for phrasing in topic.trained:
            yield phrasing
            yield phrasing.lower()
    for message in (DEFAULT_SYSTEM_MESSAGE, *SYSTEM_MESSAGES, "system", "user", "assistant"):
        yield from [message] * 3
