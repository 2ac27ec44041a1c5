"""The device of these tests, and small models on it.

``TRIAD_TEST_DEVICE`` names another device than the first GPU. On ``cpu`` everything runs but what
CUDA alone has, so that a machine without a GPU can show that the tests themselves are right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from backends.pytorch.engine import PyTorchEngine
from backends.pytorch.loading import LoadOptions, load

StartEngine = Callable[..., PyTorchEngine]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return the device to test on, and skip the test where there is none."""
    name = os.environ.get("TRIAD_TEST_DEVICE", "cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    return torch.device(name)


@pytest.fixture(scope="session")
def cuda(device: torch.device) -> torch.device:
    """Return the GPU, and skip what CUDA alone can do on another device."""
    if device.type != "cuda":
        pytest.skip("this is for a GPU")
    return device


@pytest.fixture
def start(device: torch.device) -> Iterator[StartEngine]:
    """Starts engines over folders of weights, and closes them."""
    engines: list[PyTorchEngine] = []

    def start(folder: Path, **parameters: str) -> PyTorchEngine:
        defaults = {"device": str(device), "max_num_seqs": "8", "max_model_len": "256"}
        options = LoadOptions.of(str(folder), defaults | parameters)
        engines.append(PyTorchEngine(lambda: load(options), prefill_chunk_tokens=32))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()
