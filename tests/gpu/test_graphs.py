"""CUDA graphs: replays are what the model computes, and a failed capture does no harm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backends.pytorch.graphs import CudaGraphs
from backends.pytorch.loading import LoadOptions, load
from tests.support.architectures import BATCHED, save_random


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loading_captures(cuda: torch.device, tmp_path: Path, dtype: str) -> None:
    save_random("qwen2", {}, tmp_path)
    parameters = {"device": "cuda", "torch_dtype": dtype, "cuda_graphs": "true"}
    loaded = load(LoadOptions.of(str(tmp_path), parameters))
    assert loaded.facts["cuda_graphs"] is True
    assert loaded.facts["dtype"] == dtype


@pytest.mark.parametrize("model_type", BATCHED)
def test_every_architecture_loads(cuda: torch.device, tmp_path: Path, model_type: str) -> None:
    """Without graphs only where the architecture's own code cannot be captured."""
    save_random(model_type, BATCHED[model_type], tmp_path)
    loaded = load(LoadOptions.of(str(tmp_path), {"device": "cuda", "max_num_seqs": "4"}))
    assert "fallback" not in loaded.facts
    print(f"{model_type}: CUDA graphs {loaded.facts['cuda_graphs']}")  # noqa: T201


def test_a_capture_that_fails_leaves_cuda_as_it_was(cuda: torch.device) -> None:
    capture = CudaGraphs(torch.device("cuda", 0))
    ones = torch.ones(3, device="cuda")
    stream = torch.cuda.current_stream()
    seeds = torch.zeros(3, device="cuda")

    def reads() -> None:
        if ones.sum().item() > 0:
            seeds.copy_(ones)

    def reads_when_captured() -> None:
        seeds.copy_(ones)
        if torch.cuda.is_current_stream_capturing():
            ones.sum().item()

    for function in (reads, reads_when_captured):
        with pytest.raises(RuntimeError):
            capture(function)
        assert torch.cuda.current_stream() == stream
        assert torch.cuda.get_sync_debug_mode() == 0
        assert torch.rand(3, device="cuda").isfinite().all()

    def doubles() -> None:
        seeds.copy_(ones * 2)

    replay = capture(doubles)
    ones.fill_(4)
    replay()
    assert seeds.tolist() == [8, 8, 8]
