"""Decode steps that are replayed give the tokens of ``generate``, whoever joins and leaves.

There are three ways to replay. `no_capture` calls the step again, which tests everything but the
capture. `traced` records the step's operations once and runs those alone, as a CUDA graph does: the
branches that Python has taken are fixed, and code that reads a value out of a tensor cannot be
captured. `CudaGraphs` needs a GPU: its tests are in ``tests/gpu``.
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from backends.batching.runner import Segment
from backends.engine import EngineRequest
from backends.pytorch import loading
from backends.pytorch.engine import PyTorchEngine
from backends.pytorch.graphs import Capture, Function, no_capture
from backends.pytorch.loading import LoadedCausalLM, LoadOptions, load, use_graphs
from backends.pytorch.runner import SlotRunner, layer_shapes
from backends.pytorch.self_check import SelfCheck
from backends.pytorch.slots import LayerShape, SlotCache
from backends.pytorch.static_decode import SCRATCH, StaticDecode, StepShape, doubled_sizes
from tests.support.architectures import BATCHED, GPT, SMALL, save_random
from tests.support.engines import (
    ENDLESS,
    VOCABULARY,
    Recorder,
    generate,
    random_prompt,
    run,
    submit,
)

CONTEXT = 512
TOLERANCE = 1e-3
NAMED = ["qwen2", "llama", "mistral", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "qwen3_moe"]

TRACED = ["qwen2", "gpt_oss"]
"""Tracing takes long: all others are captured on a GPU."""


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
        self.shapes: list[StepShape | None] = []  # of each step; None: not replayed

    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> Tensor:
        buffers = [b for layer in self._cache.layers for b in (layer.keys, layer.values)]
        for buffer in buffers:
            buffer[:, :, -SCRATCH:] = torch.nan
        before = [buffer.clone() for buffer in buffers]
        replays = self._static is not None and all(s.length == 1 for s in segments)
        self.shapes.append(self._static.shape(segments) if replays and self._static else None)
        logits = super().compute(segments, ids, last)
        assert logits.isfinite().all()
        for buffer, kept in zip(buffers, before, strict=True):
            for segment in segments:
                own = slice(segment.start, segment.end)
                assert buffer[segment.slot, :, own].isfinite().all()
                kept[segment.slot, :, own] = buffer[segment.slot, :, own]
            context = self._cache.context
            assert torch.equal(buffer[:, :, :context], kept[:, :, :context]), "not the step's own"
        return logits


MakeEngine = Callable[..., tuple[PyTorchEngine, WatchedRunner]]


@pytest.fixture
def make_engine(tiny_qwen2: PreTrainedModel) -> Iterator[MakeEngine]:
    engines: list[PyTorchEngine] = []

    def make(
        model: PreTrainedModel = tiny_qwen2,
        slots: int = 16,
        context: int = CONTEXT,
        capture: Capture = no_capture,
        **options: int,
    ) -> tuple[PyTorchEngine, WatchedRunner]:
        runner = WatchedRunner(copy.deepcopy(model), slots, context, capture)
        loaded = LoadedCausalLM(
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


def slot_runner(model: PreTrainedModel, slots: int = 4, context: int = 256) -> SlotRunner:
    model = copy.deepcopy(model)
    cache = SlotCache(layer_shapes(model), slots, context, model.device, scratch=SCRATCH)
    return SlotRunner(model, cache, slots)


# --- the same as `generate` ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "capture"),
    [(name, no_capture) for name in NAMED] + [(name, traced) for name in TRACED],
)
def test_concurrent_requests_get_the_tokens_of_generate(
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
    assert use_graphs(runner, no_capture, VOCABULARY, check, TOLERANCE) is None
    assert runner._static is not None


def test_the_self_check_replays_both_kinds_of_step(tiny_qwen2: PreTrainedModel) -> None:
    runner = WatchedRunner(copy.deepcopy(tiny_qwen2), 4, 256, no_capture)
    assert SelfCheck.of(tiny_qwen2, VOCABULARY, 256).deviation(runner) < TOLERANCE
    assert StepShape(4, 128, gathers=False) in runner.shapes
    assert StepShape(1, 128, gathers=True) in runner.shapes


# --- concurrent requests ------------------------------------------------------------------------


def test_requests_that_join_leave_and_are_cancelled_at_random(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    """Every answer is what it is alone, in steps of every size."""
    chance = random.Random(5)
    engine, runner = make_engine(slots=12, prefill_chunk_tokens=64)
    roots = [random_prompt(seed, 60) for seed in range(3)]
    wishes: list[tuple[list[int], int]] = []
    live: dict[int, tuple[EngineRequest, Recorder]] = {}
    finished: dict[int, list[int]] = {}

    def collect() -> None:
        for number in [n for n, (_, sink) in live.items() if sink.ended.is_set()]:
            finished[number] = live.pop(number)[1].ids

    for number in range(60):
        prompt = chance.choice(roots)[: chance.randint(1, 60)]
        prompt = prompt + random_prompt(chance.randrange(99), chance.randint(1, 160))
        wishes.append((prompt, chance.choice((3, 10, 40, 120))))
        concurrent = (1, 3, 24)[number // 8 % 3]
        while len(live) >= concurrent:
            collect()
            time.sleep(0.001)
            if live and chance.random() < 0.002:
                live.pop(chance.choice(list(live)))[0].cancelled = True
        live[number] = submit(engine, prompt, max_tokens=wishes[number][1])
    for _, sink in live.values():
        sink.wait()
    collect()
    assert len(finished) > 30
    for number, ids in finished.items():
        assert ids == generate(tiny_qwen2, *wishes[number]), number
    used = {shape for shape in runner.shapes if shape is not None}
    assert len({shape.rows for shape in used}) >= 3
    assert len({shape.keys for shape in used}) >= 2
    assert {shape.gathers for shape in used} == {False, True}


def test_rows_between_running_ones_are_left_alone(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    """What idle slots in their midst hold can still be continued."""
    engine, runner = make_engine(slots=8)
    prompts = [random_prompt(seed, 40) for seed in range(8)]
    sinks = [
        submit(engine, prompt, max_tokens=100 if slot in (1, 4, 6) else 2)[1]
        for slot, prompt in enumerate(prompts)
    ]
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.wait().ids == generate(tiny_qwen2, prompt, len(sink.tokens))
    assert StepShape(8, 256, gathers=False) in runner.shapes
    before = engine.describe()["reused_tokens"]
    for prompt in (prompts[slot] for slot in (0, 2, 3, 5, 7)):
        assert run(engine, prompt) == generate(tiny_qwen2, prompt)
    assert engine.describe()["reused_tokens"] - before == 5 * 39


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_an_answer_may_fill_the_context(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel, slots: int
) -> None:
    engine, runner = make_engine(slots=slots, context=200)
    prompt = random_prompt(7, 100)
    sinks = [submit(engine, prompt, max_tokens=ENDLESS)[1] for _ in range(2)]
    for sink in sinks:
        assert sink.wait().ids == generate(tiny_qwen2, prompt, 100)
    assert {shape.keys for shape in runner.shapes if shape is not None} == {128, 200}


def test_sampling_and_prompt_logprobs_are_those_of_packed_steps(make_engine: MakeEngine) -> None:
    """Replays write their logits to one buffer: nobody may see those of another step."""
    wishes: list[dict[str, Any]] = [
        {"temperature": 1.5, "seed": 3, "logprobs": 3, "max_tokens": 30},
        {"repetition_penalty": 1.3, "frequency_penalty": 1, "logprobs": 1, "max_tokens": 20},
        {"prompt_logprobs": 2, "logprobs": 2, "max_tokens": 10},
        {"temperature": 0.7, "seed": 9, "top_p": 0.8, "prompt_logprobs": 1, "max_tokens": 25},
    ]
    prompts = [random_prompt(seed, length) for seed, length in enumerate((1, 20, 33, 150))]
    answers = []
    for packed in (False, True):
        engine, runner = make_engine()
        if packed:
            runner.stop_replays()
        sinks = [submit(engine, p, **w)[1] for p, w in zip(prompts, wishes, strict=True)]
        answers.append([sink.wait() for sink in sinks])
    for one, other in zip(*answers, strict=True):
        assert one.ids == other.ids
        for token, expected in zip(one.tokens, other.tokens, strict=True):
            assert token.logprob == pytest.approx(expected.logprob, abs=1e-4)
            assert [p.id for p in token.prompt] == [p.id for p in expected.prompt]


def test_a_step_that_fails_fails_its_own_request(make_engine: MakeEngine) -> None:
    """GPT-2 has no position 64: an engine with a longer context reaches it."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**GPT | {"n_positions": 64})).eval()
    engine, _ = make_engine(model, slots=4, context=128)
    bad = submit(engine, random_prompt(0, 60), max_tokens=30)[1]
    good = submit(engine, [1], max_tokens=40)[1]
    assert str(bad.wait().error).startswith("generation failed: IndexError")
    assert good.wait().ids == generate(model, [1], 40)
    assert run(engine, [2, 3], max_tokens=5) == generate(model, [2, 3], 5)


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minimum", "maximum", "expected"),
    [
        (1, 1, [1]),
        (1, 6, [1, 2, 4, 6]),
        (1, 16, [1, 2, 4, 8, 16]),
        (128, 100, [100]),
        (128, 128, [128]),
        (128, 1000, [128, 256, 512, 1000]),
    ],
)
def test_sizes_are_doubled_up_to_the_last(minimum: int, maximum: int, expected: list[int]) -> None:
    assert doubled_sizes(minimum, maximum) == expected


@pytest.fixture
def static_decode(tiny_qwen2: PreTrainedModel) -> StaticDecode:
    cache = SlotCache(layer_shapes(tiny_qwen2), 16, 1000, torch.device("cpu"), scratch=SCRATCH)
    return StaticDecode(tiny_qwen2, cache, 16, VOCABULARY, no_capture)


@pytest.mark.parametrize(
    ("slots", "end", "expected"),
    [
        ([0], 1, StepShape(1, 128, gathers=False)),
        ([0], 129, StepShape(1, 256, gathers=False)),
        ([1], 1000, StepShape(2, 1000, gathers=False)),
        ([2], 128, StepShape(1, 128, gathers=True)),
        ([15], 128, StepShape(1, 128, gathers=True)),
        ([0, 7], 128, StepShape(2, 128, gathers=True)),
        ([2, 4, 7], 128, StepShape(8, 128, gathers=False)),
        ([0, 1, 15], 513, StepShape(4, 1000, gathers=True)),
        ([0, 1, 2, 3, 15], 300, StepShape(16, 512, gathers=False)),
    ],
)
def test_keys_are_gathered_where_that_moves_less(
    static_decode: StaticDecode, slots: list[int], end: int, expected: StepShape
) -> None:
    segments = [Segment(slot, 0, 1) for slot in slots[:-1]] + [Segment(slots[-1], end - 1, 1)]
    assert static_decode.shape(segments) == expected
    assert expected in static_decode.shapes


def test_every_shape_that_a_step_can_have_is_captured(static_decode: StaticDecode) -> None:
    chance = random.Random(0)
    seen = set()
    for _ in range(3000):
        slots = sorted(chance.sample(range(16), chance.randint(1, 16)))
        end = chance.choice((100, 200, 400, 900))
        seen.add(static_decode.shape([Segment(slot, end, 1) for slot in slots]))
    seen |= {static_decode.shape([Segment(0, end, 1)]) for end in (100, 200, 400, 900)}
    seen |= {
        static_decode.shape([Segment(s, end, 1) for s in range(rows)])
        for end in (100, 200, 400, 900)
        for rows in (2, 4)
    }
    assert seen == set(static_decode.shapes)
    assert len(static_decode.shapes) == len(seen)


# --- what can be captured -----------------------------------------------------------------------


class HostTraffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations between tensors of the host and of another device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        if len({leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}) > 1:
            self.found.add(str(func))
        return result


@pytest.mark.parametrize("model_type", BATCHED)
def test_a_step_moves_nothing_between_the_host_and_the_device(
    tmp_path: Path, model_type: str
) -> None:
    """A graph would copy what the host had at capture. The device is one without memory, where a
    value cannot be read either."""
    device = torch.device("meta")
    model = save_random(model_type, BATCHED[model_type], tmp_path).bfloat16()
    shapes = layer_shapes(model)
    runner = SlotRunner(model.to(device), SlotCache(shapes, 4, 100, device, scratch=SCRATCH), 4)
    traffic = HostTraffic()

    def watched(function: Function) -> Function:
        with traffic:
            function()
        return function

    runner.replay_decodes(watched, VOCABULARY)
    assert not traffic.found


# --- what cannot be captured --------------------------------------------------------------------


def test_captures_end_when_their_time_is_over(
    tiny_qwen2: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Shapes that are left are computed as they are without graphs: those with the most keys."""
    runner = slot_runner(tiny_qwen2, context=1000)
    model, cache = runner._model, runner._cache
    captured = 0

    def slow(function: Function) -> Function:
        nonlocal captured
        captured += 1
        time.sleep(0.02)
        return function

    static = StaticDecode(model, cache, 4, VOCABULARY, slow)
    with caplog.at_level(logging.INFO, "backends.pytorch.static_decode"):
        static.prepare(0.1)
    assert 4 <= captured < len(static.shapes)
    assert f"{captured} of {len(static.shapes)} CUDA graphs captured" in caplog.text
    assert static.compute([Segment(0, 5, 1)], [[1]]) is not None
    assert static.compute([Segment(0, 990, 1)], [[1]]) is None


def dynamic_rope() -> LlamaForCausalLM:
    """Its forward pass branches on the highest position, which it has to read from the device."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=rope)).eval()


def test_reading_a_value_from_the_device_is_found_out() -> None:
    """Also on a device without memory, as above."""
    device = torch.device("meta")
    model = dynamic_rope().to(device)
    shapes = [LayerShape(2, 8, 8, torch.float32)] * 2
    runner = SlotRunner(model, SlotCache(shapes, 2, 100, device, scratch=SCRATCH), 2)

    def called(function: Function) -> Function:
        function()
        return function

    with pytest.raises(RuntimeError, match="meta"):
        runner.replay_decodes(called, VOCABULARY)


def test_a_model_that_cannot_be_captured_is_decoded_without_graphs() -> None:
    model = dynamic_rope()
    runner = slot_runner(model)
    check = SelfCheck.of(model, VOCABULARY, 256)
    assert use_graphs(runner, no_capture, VOCABULARY, check, TOLERANCE) is None
    reason = use_graphs(runner, traced, VOCABULARY, check, TOLERANCE)
    assert reason is not None
    assert "get value out of a tracing tensor" in reason
    assert runner._static is None
    assert check.deviation(runner) < TOLERANCE


def forgetful(function: Function) -> Function:
    """A replay that does nothing: logits stay what they were."""
    return lambda: None


def test_replays_that_are_wrong_are_found_out(tiny_qwen2: PreTrainedModel) -> None:
    runner = slot_runner(tiny_qwen2)
    check = SelfCheck.of(tiny_qwen2, VOCABULARY, 256)
    reason = use_graphs(runner, forgetful, VOCABULARY, check, TOLERANCE)
    assert str(reason).startswith("its replayed logits differ by ")
    assert runner._static is None


@pytest.mark.parametrize(("rope", "captured"), [(True, False), (False, True)])
def test_loading_says_whether_there_are_graphs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tiny_qwen2: PreTrainedModel,
    rope: bool,
    captured: bool,
) -> None:
    """As on a GPU, but for the capture and the device."""
    monkeypatch.setattr(loading, "CudaGraphs", lambda device: traced)
    monkeypatch.setattr(loading, "_wants_graphs", lambda options, _: options.cuda_graphs != "false")
    model = dynamic_rope() if rope else tiny_qwen2
    model.save_pretrained(tmp_path)
    parameters = {"max_num_seqs": "2", "max_model_len": "100"}
    engine = PyTorchEngine(lambda: load(LoadOptions.of(str(tmp_path), parameters)))
    try:
        assert engine.describe()["cuda_graphs"] is captured
        assert ("no CUDA graphs" in caplog.text) is not captured
        assert run(engine, [1, 2, 3]) == generate(model, [1, 2, 3])
    finally:
        engine.close()
    off = load(LoadOptions.of(str(tmp_path), parameters | {"cuda_graphs": "false"}))
    assert off.facts["cuda_graphs"] is False
    if not captured:
        with pytest.raises(ValueError, match=r"^cuda_graphs: .*tracing tensor"):
            load(LoadOptions.of(str(tmp_path), parameters | {"cuda_graphs": "true"}))
