"""Decode steps that are replayed: the tokens of ``generate``, whoever joins, leaves or is cancelled.

There are three ways to replay. `plain` calls the step again, which tests everything about it but
that. `traced` records its operations once and runs those alone, as a CUDA graph does: what Python
has decided is decided for good, and code that reads a value out of a tensor cannot be captured.
`CudaGraphs` needs a GPU: without one its tests are skipped.
"""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from backends.batching.runner import Segment
from backends.engine import EngineRequest
from backends.pytorch import loading
from backends.pytorch.engine import PyTorchEngine
from backends.pytorch.graphs import Capture, CudaGraphs, Function, plain
from backends.pytorch.loading import Loaded, LoadOptions, load, use_graphs
from backends.pytorch.runner import SlotRunner, layer_shapes
from backends.pytorch.self_check import SelfCheck
from backends.pytorch.slots import SlotCache
from backends.pytorch.static_decode import SCRATCH, Shape, StaticDecode, sizes
from tests.backends.test_pytorch_engine import (
    ENDLESS,
    PATIENCE_SECONDS,
    Recorder,
    generate,
    random_prompt,
    run,
    submit,
    wait_for,
    wait_until_idle,
)
from tests.backends.test_pytorch_loading import BATCHED, GPT, SMALL, save_random

VOCABULARY = 128
CONTEXT = 512
TOLERANCE = 1e-3
NAMED = ["qwen2", "llama", "mistral", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "qwen3_moe"]


def traced(function: Function) -> Function:
    """Implements `Capture` without a GPU."""
    recorded = make_fx(function, tracing_mode="real")()
    return lambda: recorded()


class WatchedRunner(SlotRunner):
    """Fails a step that touches what is not its own.

    All scratch positions hold NaN, so that a row that looks at one is NaN too. What the step does
    not compute must be as it was.
    """

    def __init__(self, model: PreTrainedModel, slots: int, context: int, capture: Capture) -> None:
        shapes = layer_shapes(model)
        cache = SlotCache(shapes, slots, context, model.device, scratch=SCRATCH)
        super().__init__(model, cache, slots)
        self.replay_decodes(capture, model.config.vocab_size)
        self.shapes: list[Shape | None] = []  # of each step; None: not replayed

    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> Tensor:
        assert self._static is not None
        buffers = [b for layer in self._cache.layers for b in (layer.keys, layer.values)]
        for buffer in buffers:
            buffer[:, :, -SCRATCH:] = torch.nan
        before = [buffer.clone() for buffer in buffers]
        decodes = all(s.length == 1 for s in segments)
        self.shapes.append(self._static.shape(segments) if decodes else None)
        logits = super().compute(segments, ids, last)
        assert logits.isfinite().all()
        for buffer, held in zip(buffers, before, strict=True):
            for segment in segments:
                own = slice(segment.start, segment.end)
                assert buffer[segment.slot, :, own].isfinite().all()
                held[segment.slot, :, own] = buffer[segment.slot, :, own]
            context = self._cache.context
            assert torch.equal(buffer[:, :, :context], held[:, :, :context]), "not the step's own"
        return logits


MakeEngine = Callable[..., tuple[PyTorchEngine, WatchedRunner]]


@pytest.fixture
def make_engine(tiny_qwen2: PreTrainedModel) -> Iterator[MakeEngine]:
    engines: list[PyTorchEngine] = []

    def make(
        model: PreTrainedModel = tiny_qwen2,
        slots: int = 16,
        context: int = CONTEXT,
        capture: Capture = plain,
        **options: int,
    ) -> tuple[PyTorchEngine, WatchedRunner]:
        runner = WatchedRunner(copy.deepcopy(model), slots, context, capture)
        loaded = Loaded(
            runner=runner,
            context_length=context,
            vocab_size=VOCABULARY,
            eos_token_ids=frozenset(),
            facts={},
            source="nowhere",
        )
        engines.append(PyTorchEngine(lambda: loaded, **{"num_threads": 1, **options}))
        return engines[-1], runner

    yield make
    for engine in engines:
        engine.close()


def random_model(model_type: str, folder: Path) -> PreTrainedModel:
    """With a context long enough for two sizes of keys."""
    special = BATCHED[model_type]
    longer = {"n_positions": CONTEXT} if special is GPT else {"max_position_embeddings": CONTEXT}
    return save_random(model_type, (SMALL if special is not GPT else {}) | special | longer, folder)


def slot_runner(model: PreTrainedModel, slots: int = 4, context: int = 256) -> SlotRunner:
    model = copy.deepcopy(model)
    cache = SlotCache(layer_shapes(model), slots, context, model.device, scratch=SCRATCH)
    return SlotRunner(model, cache, slots)


# --- the same as `generate` ---------------------------------------------------------------------


@pytest.mark.parametrize("capture", [plain, traced])
@pytest.mark.parametrize("model_type", NAMED)
def test_a_crowd_gets_the_tokens_of_generate(
    make_engine: MakeEngine, tmp_path: Path, model_type: str, capture: Capture
) -> None:
    """Alone; six at once; and when all but the one in the highest slot have left."""
    model = save_random(model_type, BATCHED[model_type], tmp_path)
    engine, runner = make_engine(model, slots=6, context=256, capture=capture)
    lengths = (3, 1, 9, 14, 118, 40)
    prompts = [random_prompt(seed, length) for seed, length in enumerate(lengths)]
    counts = [8, 8, 8, 8, 30, 8]  # the long one passes 128 keys
    expected = [generate(model, p, n) for p, n in zip(prompts, counts, strict=True)]
    assert run(engine, prompts[0], max_tokens=counts[0]) == expected[0]
    sinks = [submit(engine, p, max_tokens=n)[1] for p, n in zip(prompts, counts, strict=True)]
    assert [sink.wait().ids for sink in sinks] == expected
    used = {shape for shape in runner.shapes if shape is not None}
    assert {shape.keys for shape in used} == {128, 256}
    assert {shape.gathers for shape in used} == {False, True}
    assert len({shape.rows for shape in used if not shape.gathers}) > 1


@pytest.mark.parametrize("model_type", BATCHED)
def test_every_architecture_passes_the_self_check(tmp_path: Path, model_type: str) -> None:
    model = save_random(model_type, BATCHED[model_type], tmp_path)
    runner = slot_runner(model)
    check = SelfCheck.of(model, VOCABULARY, 256)
    assert use_graphs(runner, plain, VOCABULARY, check, TOLERANCE) is None
    assert runner._static is not None
