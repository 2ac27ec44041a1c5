"""Every family's export, served: steps of sequences through a real Triton."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
from transformers import AutoModelForCausalLM

from tests.converters.conftest import Exports, Models
from tests.converters.decoder.test_export import FAMILIES
from tests.support.decoders import CONTEXT, VOCABULARY
from tests.support.triton import Triton, triton_server

STEPS = 6
_sequence_ids = count(1)


def greedy(model: Path, prompt: list[int]) -> list[int]:
    """Return the tokens with which transformers continues."""
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.tensor([prompt])
    output = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=0,
    )
    new: list[int] = output[0, len(prompt) :].tolist()
    return new


def served(triton: Triton, model: str, prompt: list[int]) -> list[int]:
    """Send a prompt and then single tokens, each the most probable one, and return these."""
    sequence, tokens = next(_sequence_ids), list[int]()
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        new, length = prompt, len(prompt)
        for step in range(STEPS):
            width = length if len(new) > 1 else CONTEXT
            values = {
                "input_ids": np.array([new], np.int64),
                "attention_mask": (np.arange(width) < length).astype(np.int64)[None],
            }
            inputs = []
            for name, value in values.items():
                inputs.append(grpcclient.InferInput(name, value.shape, "INT64"))
                inputs[-1].set_data_from_numpy(value)
            result = client.infer(
                model,
                inputs,
                sequence_id=sequence,
                sequence_start=step == 0,
                sequence_end=step == STEPS - 1,
            )
            # The end-of-sequence token is not to be chosen, as `min_new_tokens` has it.
            logits = result.as_numpy("logits").reshape(-1)
            logits = np.where(np.arange(VOCABULARY) == 256, -np.inf, logits)
            tokens.append(int(logits.argmax()))
            new, length = tokens[-1:], length + 1
    return tokens


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory, exported: Exports) -> Iterator[Triton]:
    repository = tmp_path_factory.mktemp("repository")
    decoders = [f"{family}_decoder" for family in FAMILIES]
    for family, decoder in zip(FAMILIES, decoders, strict=True):
        (repository / decoder).symlink_to(exported(family)[0] / decoder)
    with triton_server(tmp_path_factory.mktemp("triton"), repository, *decoders) as server:
        yield server


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_side_by_side_get_the_tokens_of_generate(
    family: str, triton: Triton, tiny: Models
) -> None:
    chance = random.Random(family)
    prompts = [
        [chance.randrange(VOCABULARY) for _ in range(chance.randint(2, CONTEXT - STEPS))]
        for _ in range(4)
    ]
    with ThreadPoolExecutor(len(prompts)) as pool:
        tokens = list(pool.map(lambda prompt: served(triton, f"{family}_decoder", prompt), prompts))
    assert tokens == [greedy(tiny(family), prompt) for prompt in prompts]
