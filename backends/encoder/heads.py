"""The heads of encoders, which turn output rows into embeddings, or into labels and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.contract import parameters as keys
from backends.contract.encoder import EMBEDDING, LABEL, SCORE
from backends.contract.tensors import TensorSpec

Outputs: TypeAlias = list[tuple[TensorSpec, NDArray[Any]]]


class EncoderHead(Protocol):
    """The last step of an encoder.

    ``graph_output``: the name of the graph's output. ``facts``: the entries of `describe` that
    depend on the head.
    """

    graph_output: str
    facts: dict[str, Any]

    def finish(self, rows: NDArray[np.float32]) -> Outputs:
        """Return the output tensors for ``rows``, FP32 [texts, …] as the graph computes them."""


class EmbeddingHead:
    """The head of an embedding model: rows that the graph has pooled and perhaps normalised."""

    graph_output = "sentence_embedding"

    def __init__(self, dimension: int) -> None:
        self.facts: dict[str, Any] = {"type": "embedding", "embedding_dimension": dimension}

    def finish(self, rows: NDArray[np.float32]) -> Outputs:
        """Return ``rows``, FP32 [texts, dimension], as the embeddings."""
        return [(EMBEDDING, rows)]


class LabelHead:
    """The head of a classifier, which returns the label with the highest score.

    ``score``: ``softmax`` (exactly one label is true), ``sigmoid`` (each label is true or false by
    itself), or ``none`` (a regression's value).
    """

    graph_output = "logits"

    def __init__(self, labels: list[str], score: str) -> None:
        self.facts: dict[str, Any] = {"type": "classification", "labels": labels}
        self._labels = np.array([label.encode() for label in labels], np.object_)
        self._score = score

    def finish(self, rows: NDArray[np.float32]) -> Outputs:
        """Return the best label and its score for ``rows``, FP32 [texts, labels], the logits."""
        scores = _scores(rows, self._score)
        return [(LABEL, self._labels[scores.argmax(-1)]), (SCORE, scores.max(-1))]


def _scores(logits: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    if kind == "none":
        return logits
    if kind == "sigmoid":
        # Computed by tanh, which does not overflow for any logit.
        scores: NDArray[np.float32] = (np.tanh(logits / 2) + 1) / 2
        return scores
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    scores = exp / exp.sum(-1, keepdims=True)
    return scores


def head(parameters: Mapping[str, str]) -> EncoderHead:
    """Return the head that a model's ``parameters`` describe, see `backends.encoder.model`.

    Where they do not have the dimension, it is -1 until the model is loaded.
    """
    if keys.LABELS in parameters:
        return LabelHead(json.loads(parameters[keys.LABELS]), parameters[keys.SCORE])
    return EmbeddingHead(int(parameters.get(keys.EMBEDDING_DIMENSION, "-1")))
