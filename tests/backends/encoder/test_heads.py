from __future__ import annotations

import json

import numpy as np
import pytest

from backends.encoder.heads import head

LOGITS = np.array([[0.0, 2.0], [1000.0, -1000.0]], np.float32)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("softmax", [1 / (1 + np.exp(-2)), 1]),  # one of the labels holds
        ("sigmoid", [1 / (1 + np.exp(-2)), 1]),  # each holds or not
        ("none", [2, 1000]),
    ],
)
def test_the_best_label_and_its_score(score: str, expected: list[float]) -> None:
    made = head({"labels": json.dumps(["good", "bad"]), "score": score}).finish(LOGITS)
    (_, labels), (_, scores) = made
    assert labels.tolist() == [b"bad", b"good"]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_probabilities_of_one_label_of_many_differ_from_those_of_each() -> None:
    logits = np.array([[2.0, 2.0]], np.float32)
    scores = {
        kind: head({"labels": '["a", "b"]', "score": kind}).finish(logits)[1][1][0]
        for kind in ("softmax", "sigmoid")
    }
    assert scores["softmax"] == pytest.approx(0.5)
    assert scores["sigmoid"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_embeddings_are_as_the_graph_makes_them() -> None:
    made = head({"embedding_dimension": "2"})
    assert made.finish(LOGITS)[0][1] is LOGITS
