"""Measurement of an export's quality and speed, next to the model that it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from converters.common.errors import ExportRefused, OptionError
from converters.common.options import Precision
from converters.common.report import Figure
from converters.decoder.session import DecoderSession
from converters.decoder.source import DecoderSource
from converters.decoder.verify import relative_error

MAX_PASSAGES, MAX_PASSAGE_TOKENS = 8, 128
"""The passages that are read for the quality, and the tokens of each."""
RUNS, TOKENS_PER_RUN = 5, 16
"""The speed is the median of so many runs of so many tokens each."""

MAX_PERPLEXITY_RATIO: Mapping[Precision, float] = {
    "fp16": 1.1,
    "int8": 1.5,
    "int8-dynamic": 1.5,
    "int4": 2.0,
}
"""Perplexity after by perplexity before: beyond it, something other than rounding is at work."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of a graph, over all tokens of the text but the first of each passage."""

    tokens: int
    top1_agreement: float
    relative_error: float
    perplexity: float
    source_perplexity: float

    def figures(self) -> list[Figure]:
        """Return the measurements for the report."""
        return [
            Figure("perplexity", self.source_perplexity, self.perplexity),
            Figure("top-1 agreement", 1.0, self.top1_agreement),
            Figure("mean relative error of logits", 0.0, self.relative_error),
            Figure("tokens of text", self.tokens, self.tokens),
        ]

    def check(self, precision: Precision) -> None:
        """Raise `ExportRefused` for a perplexity that no rounding explains."""
        max_ratio = MAX_PERPLEXITY_RATIO[precision]
        if not self.perplexity / self.source_perplexity <= max_ratio:
            raise ExportRefused(
                f"the perplexity grows by more than a factor of {max_ratio:g}",
                {"perplexity": self.perplexity, "before": self.source_perplexity},
            )


def split_passages(source: DecoderSource, text: str) -> list[list[int]]:
    """Return the token ids of equally long passages, spread evenly over the text. Raises
    `OptionError`."""
    # Not verbose: the text is longer than a prompt may be, and is cut below.
    encoded = source.tokenizer(text, add_special_tokens=False, verbose=False)
    ids: list[int] = encoded["input_ids"]
    length = min(MAX_PASSAGE_TOKENS, source.context, len(ids))
    if length < 2:
        raise OptionError("text", "must have at least 2 tokens")
    rows = min(MAX_PASSAGES, len(ids) // length)
    stride = len(ids) // rows
    return [ids[start : start + length] for start in range(0, rows * stride, stride)]


@torch.inference_mode()
def measure_quality(graph: Path, source: DecoderSource, passages: list[list[int]]) -> Quality:
    """Decode all passages side by side, a token at a time, as they would be generated, and return
    the quality."""
    expected = np.stack([source.model(torch.tensor([ids])).logits[0].numpy() for ids in passages])
    actual = _decode_passages(graph, passages, expected.shape)
    expected, actual = expected[:, :-1], actual[:, :-1]
    following = np.array([row[1:] for row in passages])
    vocabulary = actual.shape[-1]
    pairs = zip(actual.reshape(-1, vocabulary), expected.reshape(-1, vocabulary), strict=True)
    return Quality(
        tokens=following.size,
        top1_agreement=float((actual.argmax(-1) == expected.argmax(-1)).mean()),
        relative_error=statistics.fmean(relative_error(a, b) for a, b in pairs),
        perplexity=_perplexity(actual, following),
        source_perplexity=_perplexity(expected, following),
    )


def _decode_passages(
    graph: Path, passages: list[list[int]], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    session = DecoderSession(graph, len(passages))
    logits = np.empty(shape, np.float32)
    for position in range(len(passages[0])):
        ids, positions = [row[position] for row in passages], [position] * len(passages)
        logits[:, position] = session.decode(ids, positions)
    return logits


def _perplexity(logits: npt.NDArray[np.float32], following: npt.NDArray[np.int64]) -> float:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    likelihood = np.take_along_axis(shifted, following[..., None], -1)[..., 0]
    return float(np.exp((np.log(np.exp(shifted).sum(-1)) - likelihood).mean()))


def measure_speed(graph: Path, source: DecoderSource) -> Figure:
    """Return the time of one sequence's decode: in PyTorch in float32, and in the graph."""
    prompt = [1] * min(32, source.context - TOKENS_PER_RUN)
    session = DecoderSession(graph, threads=torch.get_num_threads())
    return Figure(
        f"decode, median of {RUNS} runs",
        _milliseconds_per_token(lambda: _decode_source(source, prompt)),
        _milliseconds_per_token(lambda: _decode_graph(session, prompt)),
        "ms per token",
    )


def _milliseconds_per_token(decode: Callable[[], float]) -> float:
    decode()
    return statistics.median(decode() for _ in range(RUNS)) / TOKENS_PER_RUN * 1000


@torch.inference_mode()
def _decode_source(source: DecoderSource, prompt: list[int]) -> float:
    """Return the seconds for `TOKENS_PER_RUN` tokens after ``prompt``."""
    cache = DynamicCache(config=source.config)
    source.model(torch.tensor([prompt]), use_cache=True, cache=cache)
    token, start = torch.tensor([[1]]), time.perf_counter()
    for _ in range(TOKENS_PER_RUN):
        source.model(token, use_cache=True, cache=cache)
    return time.perf_counter() - start


def _decode_graph(session: DecoderSession, prompt: list[int]) -> float:
    """Return the seconds for `TOKENS_PER_RUN` tokens after ``prompt``."""
    session.prefill(0, prompt)
    start = time.perf_counter()
    for step in range(TOKENS_PER_RUN):
        session.decode([1], [len(prompt) + step])
    return time.perf_counter() - start
