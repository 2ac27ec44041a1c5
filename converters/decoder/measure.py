"""What an export costs and what it loses, next to the model that it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from converters.decoder.session import DecoderSession
from converters.decoder.source import Source, cache_argument
from converters.decoder.verify import distance
from converters.demo.corpus import CORPUS_FOLDER
from converters.errors import ExportRefused, OptionError
from converters.report import Figure

ROWS, LENGTH = 8, 128
"""At most so many passages of so many tokens are read for the quality."""
RUNS, TOKENS = 5, 16
"""The speed is the median of so many runs of so many tokens each."""

HIGHEST_RATIO = {"fp16": 1.1, "int8": 1.5, "int8-dynamic": 1.5, "int4": 2.0}
"""Perplexity after by perplexity before: beyond it, something other than rounding is at work."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Over all tokens of the text but the first of each passage."""

    tokens: int
    top1_agreement: float
    distance: float
    perplexity: float
    source_perplexity: float

    def figures(self) -> list[Figure]:
        return [
            Figure("perplexity", self.source_perplexity, self.perplexity),
            Figure("top-1 agreement", 1.0, self.top1_agreement),
            Figure("mean relative error of logits", 0.0, self.distance),
            Figure("tokens of text", self.tokens, self.tokens),
        ]

    def check(self, precision: str) -> None:
        """Raises `ExportRefused` for what no rounding explains."""
        ratio, bound = self.perplexity / self.source_perplexity, HIGHEST_RATIO[precision]
        if not ratio <= bound:
            raise ExportRefused(
                f"the perplexity grows by more than a factor of {bound:g}",
                {"perplexity": self.perplexity, "before": self.source_perplexity},
            )


def read_text(path: Path | None) -> str:
    """Raises `OptionError`."""
    if path is None:
        return "\n".join(p.read_text(encoding="utf-8") for p in sorted(CORPUS_FOLDER.glob("*.md")))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("text", f"{path} cannot be read: {error}") from error


def passages(source: Source, text: str) -> list[list[int]]:
    """Token ids of equally long passages, spread evenly over the text. Raises `OptionError`."""
    # Not verbose: the text is longer than a prompt may be, and is cut below.
    encoded = source.tokenizer(text, add_special_tokens=False, verbose=False)
    ids: list[int] = encoded["input_ids"]
    length = min(LENGTH, source.context, len(ids))
    if length < 2:
        raise OptionError("text", "must have at least 2 tokens")
    rows = min(ROWS, len(ids) // length)
    stride = len(ids) // rows
    return [ids[start : start + length] for start in range(0, rows * stride, stride)]


@torch.inference_mode()
def quality(graph: Path, source: Source, texts: list[list[int]]) -> Quality:
    """Decodes all passages side by side, a token at a time, as they would be generated."""
    session = DecoderSession(graph, len(texts))
    expected = np.stack([source.model(torch.tensor([ids])).logits[0].numpy() for ids in texts])
    made = np.empty_like(expected)
    for position in range(len(texts[0])):
        ids, positions = [row[position] for row in texts], [position] * len(texts)
        made[:, position] = session.decode(ids, positions)
    expected, made = expected[:, :-1], made[:, :-1]
    following = np.array([row[1:] for row in texts])
    pairs = zip(made.reshape(-1, made.shape[-1]), expected.reshape(-1, made.shape[-1]), strict=True)
    return Quality(
        following.size,
        float((made.argmax(-1) == expected.argmax(-1)).mean()),
        statistics.fmean(distance(a, b) for a, b in pairs),
        _perplexity(made, following),
        _perplexity(expected, following),
    )


def _perplexity(logits: npt.NDArray[np.float32], following: npt.NDArray[np.int64]) -> float:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    likelihood = np.take_along_axis(shifted, following[..., None], -1)[..., 0]
    return float(np.exp((np.log(np.exp(shifted).sum(-1)) - likelihood).mean()))


def speed(graph: Path, source: Source) -> Figure:
    """Decode of one sequence: PyTorch in float32, and the graph."""
    prompt = [1] * min(32, source.context - TOKENS)
    session = DecoderSession(graph, threads=torch.get_num_threads())
    return Figure(
        f"decode, median of {RUNS} runs",
        _milliseconds(lambda: _decode_source(source, prompt)),
        _milliseconds(lambda: _decode_graph(session, prompt)),
        "ms per token",
    )


def _milliseconds(decode: Callable[[], float]) -> float:
    decode()
    return statistics.median(decode() for _ in range(RUNS)) / TOKENS * 1000


@torch.inference_mode()
def _decode_source(source: Source, prompt: list[int]) -> float:
    cache = {cache_argument(source.model): DynamicCache(config=source.config)}
    source.model(torch.tensor([prompt]), use_cache=True, **cache)
    token, begin = torch.tensor([[1]]), time.perf_counter()
    for _ in range(TOKENS):
        source.model(token, use_cache=True, **cache)
    return time.perf_counter() - begin


def _decode_graph(session: DecoderSession, prompt: list[int]) -> float:
    session.prefill(0, prompt)
    begin = time.perf_counter()
    for step in range(TOKENS):
        session.decode([1], [len(prompt) + step])
    return time.perf_counter() - begin
