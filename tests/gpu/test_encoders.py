"""Encoders on the device give the CPU's vectors, alone and in a padded batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backends.pytorch.encoder import EncoderOptions, load
from tests.support.encoder_sizes import CONTEXT
from tests.support.encoders import FAMILIES, embed, save_encoder

TEXTS = ["a", "What is machine learning?", "x" * (CONTEXT - 2), "é" * 20, "b c"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gets_the_vectors_of_the_cpu(
    device: torch.device, tmp_path: Path, family: str
) -> None:
    weights = save_encoder(family, tmp_path)
    parameters = {"device": str(device), "torch_dtype": "float32", "max_num_seqs": "4"}
    loaded = load(EncoderOptions.of(str(weights), parameters))
    try:
        vectors = loaded.runner.run(loaded.tokenizer.encode(TEXTS))
        alone = [loaded.runner.run(loaded.tokenizer.encode([text]))[0] for text in TEXTS]
    finally:
        loaded.runner.close()
    np.testing.assert_allclose(vectors, embed(weights, TEXTS), atol=2e-4)
    np.testing.assert_allclose(vectors, alone, atol=2e-4)
    assert loaded.facts["device"] == str(device)
