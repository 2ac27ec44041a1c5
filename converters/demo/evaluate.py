"""Measurement of how many questions of the corpus a demo model answers word for word."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from converters.common.corpus.topics import Topic
from converters.demo.dataset import (
    FORMS,
    IGNORED,
    Encoder,
    Example,
    Form,
    collate,
    finished_turn,
    user_message,
)
from converters.demo.penalty import apply_penalty

logger = logging.getLogger(__name__)

_BATCH = 32
_FIRST_TURN = ("Hello", "Nice to meet you! How can I help you today?")


@dataclass(frozen=True, slots=True)
class Case:
    """One question in one form, and whether its phrasing was trained on."""

    question: str
    form: Form
    trained: bool
    example: Example


def evaluate(folder: Path, topics: Sequence[Topic]) -> None:
    """Load a model folder in float32, ask every question, and log shares and misses."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = Encoder(AutoTokenizer.from_pretrained(folder))
    cases = sorted(_cases(topics, encoder), key=lambda case: len(case.example))
    for penalty in (1.0, 1.1):
        hits = _answered(model, [case.example for case in cases], penalty)
        _report(cases, hits, penalty)


def _cases(topics: Sequence[Topic], encoder: Encoder) -> Iterator[Case]:
    for topic in topics:
        for question in topic.phrasings:
            for form in FORMS:
                example = _example(encoder, question, topic.answer, form)
                yield Case(question, form, question in topic.trained, example)


def _example(encoder: Encoder, question: str, answer: str, form: Form) -> Example:
    if form == "raw":
        return encoder.raw(question, answer)
    earlier = finished_turn(*_FIRST_TURN) if form == "second turn" else []
    return encoder.chat([*earlier, user_message(question)], answer)


@torch.inference_mode()
def _answered(model: PreTrainedModel, examples: Sequence[Example], penalty: float) -> list[bool]:
    """Return for each example whether greedy decoding gives the expected answer.

    One forward pass over prompt and answer is enough: decoding follows the expected answer exactly
    as long as the most likely token is the expected one at every position.
    """
    hits: list[bool] = []
    for start in range(0, len(examples), _BATCH):
        input_ids, labels = collate(examples[start : start + _BATCH])
        logits = apply_penalty(model(input_ids=input_ids).logits, input_ids, penalty)
        hits += _all_correct(logits.argmax(dim=-1), labels)
    return hits


def _all_correct(predicted: Tensor, labels: Tensor) -> list[bool]:
    correct: list[bool] = ((predicted == labels) | (labels == IGNORED)).all(dim=-1).tolist()
    return correct


def _report(cases: Sequence[Case], hits: Sequence[bool], penalty: float) -> None:
    for trained in (True, False):
        for form in FORMS:
            chosen = [
                hit
                for case, hit in zip(cases, hits, strict=True)
                if case.form == form and case.trained == trained
            ]
            logger.info(
                "penalty %.1f, %s, %s: %d of %d answered (%.1f %%)",
                penalty,
                "trained" if trained else "held out",
                form,
                sum(chosen),
                len(chosen),
                100 * sum(chosen) / len(chosen),
            )
    if penalty == 1.0:
        _list_misses(cases, hits)


def _list_misses(cases: Sequence[Case], hits: Sequence[bool]) -> None:
    for case, hit in zip(cases, hits, strict=True):
        if not hit:
            wording = "trained" if case.trained else "held out"
            logger.info("missed (%s, %s): %s", wording, case.form, case.question)
