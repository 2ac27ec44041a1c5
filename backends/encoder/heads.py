"""What a graph's output rows become: embeddings, or labels with scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.contract.encoder import EMBEDDING, LABEL, SCORE
from backends.contract.tensors import TensorSpec

Outputs: TypeAlias = list[tuple[TensorSpec, NDArray[Any]]]


class Head(Protocol):
    graph_output: str
    outputs: tuple[TensorSpec, ...]
    facts: dict[str, Any]

    def finish(self, rows: NDArray[np.float32]) -> Outputs: ...


class EmbeddingHead:
    """Embeddings as the graph makes them: pooled, and normalised where the model is so."""

    graph_output = "sentence_embedding"

    def __init__(self, dimension: int) -> None:
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(EMBEDDING.name, EMBEDDING.datatype, (-1, dimension)),
        )
        self.facts: dict[str, Any] = {"type": "embedding", "embedding_dimension": dimension}

    def finish(self, rows: NDArray[np.float32]) -> Outputs:
        return [(EMBEDDING, rows)]


class LabelHead:
    """The label with the highest score. ``score``: ``softmax`` (one of the labels holds),
    ``sigmoid`` (each holds or not), or ``none`` (a regression's value)."""

    graph_output = "logits"
    outputs: tuple[TensorSpec, ...] = (LABEL, SCORE)

    def __init__(self, labels: list[str], score: str) -> None:
        self.facts: dict[str, Any] = {"type": "classification", "labels": labels}
        self._labels = np.array([label.encode() for label in labels], np.object_)
        self._score = score

    def finish(self, rows: NDArray[np.float32]) -> Outputs:
        scores = _scores(rows, self._score)
        return [(LABEL, self._labels[scores.argmax(-1)]), (SCORE, scores.max(-1))]


def _scores(logits: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    if kind == "none":
        return logits
    if kind == "sigmoid":
        # By tanh, which no logit makes overflow.
        scores: NDArray[np.float32] = (np.tanh(logits / 2) + 1) / 2
        return scores
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    scores = exp / exp.sum(-1, keepdims=True)
    return scores


def head(parameters: Mapping[str, str]) -> Head:
    """``parameters``: as `backends.encoder.model` documents them. Where they do not say the
    dimension, it is found out when the model is loaded."""
    if "labels" in parameters:
        return LabelHead(json.loads(parameters["labels"]), parameters["score"])
    return EmbeddingHead(int(parameters.get("embedding_dimension", "-1")))
