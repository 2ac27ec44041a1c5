"""Embedding requests and responses, against the encoders' side of the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.contract import names
from backends.contract.encoder import INPUTS
from backends.contract.kinds import RequestKind
from backends.contract.tensors import flag, text, texts
from control_plane.inference.requests import Embed
from control_plane.triton import codec
from tests.support.wire import inputs_of, response_of


def inputs(rows: Any, truncate: int | None = None) -> dict[str, Any]:  # noqa: ANN401
    return inputs_of(codec.encode(Embed("m", "1", rows, truncate), "1.a"), INPUTS)


def test_texts_are_the_elements_of_one_tensor() -> None:
    tensors = inputs(["Grüße", "", "b" * 300])
    assert text(tensors, names.REQUEST_KIND) == RequestKind.EMBED
    assert texts(tensors, names.TEXT_INPUT) == ["Grüße", "", "b" * 300]
    assert names.INPUT_IDS not in tensors


def test_rows_of_token_ids_are_one_tensor_and_their_lengths() -> None:
    tensors = inputs([[5, 6, 7], [8]])
    assert tensors[names.INPUT_IDS].tolist() == [5, 6, 7, 8]
    assert tensors[names.INPUT_LENGTHS].tolist() == [3, 1]
    assert names.TEXT_INPUT not in tensors


@pytest.mark.parametrize(
    ("truncate", "whole", "tokens"), [(None, None, None), (-1, True, None), (7, None, 7)]
)
def test_truncation_is_at_the_context_or_at_a_number_of_tokens(
    truncate: int | None, whole: bool | None, tokens: int | None
) -> None:
    tensors = inputs(["a"], truncate)
    assert flag(tensors, names.TRUNCATE) is whole
    cut = tensors.get(names.TRUNCATE_TOKENS)
    assert (None if cut is None else cut.tolist()) == (None if tokens is None else [tokens])


def test_vectors_keep_their_order_and_tokens_are_added_up() -> None:
    vectors = np.array([[1.5, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    response = response_of(
        [(names.NUM_INPUT_TOKENS, np.array([3, 4], np.uint32)), (names.EMBEDDING, vectors)]
    )
    read = codec.decoder(Embed("m", "1", ["a", "b"]))(response)
    assert read.vectors.tolist() == vectors.tolist()
    assert read.tokens == 7
