"""The PyTorch engine gives what ``generate`` gives, to many at once, and outlives every failure."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from backends.batching.runner import Segment
from backends.batching.slots import MIN_SHARED_PREFIX
from backends.contract.errors import EngineError, Overloaded, ShuttingDown
from backends.contract.responses import FinishReason
from backends.contract.sampling import SamplingParameters
from backends.engine import EngineRequest, Token
from backends.pytorch.engine import PyTorchEngine
from backends.pytorch.loading import LoadedCausalLM
from backends.pytorch.runner import SlotRunner, layer_shapes
from backends.pytorch.slots import SlotCache
from tests.support.engines import (
    ENDLESS,
    PATIENCE_SECONDS,
    VOCABULARY,
    Recorder,
    generate,
    occupancy,
    random_prompt,
    run,
    submit,
    wait_for,
    wait_until_idle,
)

CHUNK = 128  # the default
CONTEXT = 1 << 14


def make_loaded(
    model: PreTrainedModel, *, eos: Sequence[int] = (), context_length: int, max_num_seqs: int
) -> LoadedCausalLM:
    """Of a copy: a slot cache's attention is put into the model."""
    model = copy.deepcopy(model)
    cache = SlotCache(layer_shapes(model), max_num_seqs, context_length, model.device)
    return LoadedCausalLM(
        runner=SlotRunner(model, cache, max_num_seqs),
        context_length=context_length,
        vocab_size=model.config.vocab_size,
        eos_token_ids=frozenset(eos),
        facts={"parameters": sum(p.numel() for p in model.parameters())},
        source="nowhere",
    )


MakeEngine = Callable[..., PyTorchEngine]


@pytest.fixture
def make_engine(tiny_qwen2: PreTrainedModel) -> Iterator[MakeEngine]:
    engines: list[PyTorchEngine] = []

    def make(
        model: PreTrainedModel = tiny_qwen2,
        eos: Sequence[int] = (),
        context_length: int = CONTEXT,
        max_num_seqs: int = 16,
        **options: int,
    ) -> PyTorchEngine:
        def load() -> LoadedCausalLM:
            return make_loaded(
                model, eos=eos, context_length=context_length, max_num_seqs=max_num_seqs
            )

        engines.append(PyTorchEngine(load, **{"num_threads": 1, **options}))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(make_engine: MakeEngine) -> PyTorchEngine:
    return make_engine()


# --- the same as `generate` ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "length",
    [1, 2, 30, CHUNK, CHUNK + 1, CHUNK + 88],
)
def test_greedy_output_is_that_of_generate(
    engine: PyTorchEngine, tiny_qwen2: PreTrainedModel, length: int
) -> None:
    prompt = random_prompt(length, length)
    assert run(engine, prompt) == generate(tiny_qwen2, prompt)


@pytest.mark.parametrize("max_num_seqs", [3, 16])
def test_sixteen_at_once_get_what_each_gets_alone(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel, max_num_seqs: int
) -> None:
    engine = make_engine(max_num_seqs=max_num_seqs)
    prompts = [random_prompt(seed, 1 + 7 * seed) for seed in range(15)]
    prompts.append(random_prompt(99, CHUNK + 50))
    sinks = [submit(engine, prompt)[1] for prompt in prompts]
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.wait().ids == generate(tiny_qwen2, prompt)


def test_a_parameter_with_a_file_of_its_own_is_each_requests_own(engine: PyTorchEngine) -> None:
    """So narrow a filter leaves the most probable token alone."""
    prompt = random_prompt(2, 9)
    sinks = [
        submit(engine, prompt, temperature=5.0, seed=seed, top_n_sigma=sigma)[1]
        for seed, sigma in enumerate([1e-6, 0.0, 1e-6])
    ]
    first, free, second = (sink.wait().ids for sink in sinks)
    assert first == second == run(engine, prompt)
    assert free != first


def test_seeds_and_parameters_do_not_mix(engine: PyTorchEngine) -> None:
    prompt = random_prompt(1, 9)
    wishes: list[dict[str, Any]] = [
        {"seed": seed, "temperature": 0.5 + seed % 4, "top_k": seed % 3 * 10, "max_tokens": 9}
        | ({"repetition_penalty": 1.5, "logprobs": 2} if seed % 2 else {"top_p": 0.9})
        for seed in range(16)
    ]
    alone = [submit(engine, prompt, **wish)[1].wait().tokens for wish in wishes]
    together = [submit(engine, prompt, **wish)[1] for wish in wishes]
    for sink, tokens in zip(together, alone, strict=True):
        assert sink.wait().ids == [token.id for token in tokens]
        logprobs = [token.logprob for token in sink.tokens]
        assert logprobs == pytest.approx([token.logprob for token in tokens], abs=1e-4)
    assert len({tuple(token.id for token in tokens) for tokens in alone}) > 12


def test_a_seeded_draw_is_that_of_generate(
    engine: PyTorchEngine, tiny_qwen2: PreTrainedModel
) -> None:
    prompt = torch.tensor([random_prompt(4, 20)])
    torch.manual_seed(42)
    expected = tiny_qwen2.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=10,
        do_sample=True,
        temperature=2.0,
        top_k=0,
        top_p=0.9,
        pad_token_id=0,
    )
    ours = run(engine, prompt[0].tolist(), temperature=2.0, top_p=0.9, seed=42, max_tokens=10)
    assert ours == expected[0, 20:].tolist()


TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GROUPED = TINY | {"num_key_value_heads": 2}
SLIDING = {"sliding_window": 8}
ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=None)),
    "mistral_sliding": lambda: MistralForCausalLM(MistralConfig(**GROUPED, **SLIDING)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "gemma2_sliding": lambda: Gemma2ForCausalLM(
        Gemma2Config(**GROUPED, head_dim=8, query_pre_attn_scalar=8, **SLIDING)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=256,
            n_embd=32,
            n_layer=2,
            n_head=4,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
        )
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**TINY)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**GROUPED)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**GROUPED)),
}


@pytest.mark.parametrize("chunk", [5, CHUNK])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_output_is_that_of_generate_whatever_the_architecture(
    make_engine: MakeEngine, architecture: str, chunk: int
) -> None:
    torch.manual_seed(1)
    model = ARCHITECTURES[architecture]().eval()
    engine = make_engine(model, context_length=256, prefill_chunk_tokens=chunk)
    prompts = [random_prompt(seed, length) for seed, length in enumerate((1, 6, 33))]
    sinks = [submit(engine, prompt, max_tokens=10)[1] for prompt in prompts]
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.wait().ids == generate(model, prompt, 10)


@pytest.mark.parametrize("at", [1, 6, 11])
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"repetition_penalty": 1.4, "frequency_penalty": 1.0},
        {"temperature": 1.5, "seed": 6, "top_p": 0.95, "presence_penalty": 1.0},
    ],
)
def test_a_resumed_request_goes_on_exactly(
    engine: PyTorchEngine, sampling: dict[str, Any], at: int
) -> None:
    prompt = random_prompt(2, 17)
    whole = run(engine, prompt, **sampling)
    resumed = submit(engine, prompt, output_ids=whole[:at], **sampling)[1].wait()
    assert resumed.ids == whole[at:]
    assert resumed.finish_reason == "length"


# --- concurrent requests ------------------------------------------------------------------------


def test_requests_that_join_leave_and_are_cancelled_at_random(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    """32 at once in 12 slots; prompts share prefixes; every answer is what it is alone."""
    chance = random.Random(8)
    roots = [random_prompt(seed, 60) for seed in range(3)]
    engine = make_engine(max_num_seqs=12, prefill_chunk_tokens=24)

    def wish() -> tuple[list[int], dict[str, Any]]:
        prompt = chance.choice(roots)[: chance.randint(1, 60)]
        prompt = prompt + random_prompt(chance.randrange(99), chance.randint(1, 90))
        sampling: dict[str, Any] = {"max_tokens": chance.randint(1, 40)}
        if chance.random() < 0.3:
            sampling |= {"temperature": 1.2, "seed": chance.randrange(99), "top_p": 0.9}
        if chance.random() < 0.3:
            sampling |= {"repetition_penalty": 1.2, "frequency_penalty": 0.5}
        return prompt, sampling

    wishes = [wish() for _ in range(96)]
    live: list[tuple[EngineRequest, Recorder]] = []
    finished: dict[int, list[int]] = {}
    pending: dict[Recorder, int] = {}
    cancelled = 0
    for number, (prompt, sampling) in enumerate(wishes):
        while len(pending) >= 32:
            time.sleep(0.001)
            for sink in [sink for sink in pending if sink.ended.is_set()]:
                finished[pending.pop(sink)] = sink.ids
            if live and cancelled < 24 and chance.random() < 0.05:
                request, sink = live.pop(chance.randrange(len(live)))
                if not sink.ended.is_set():
                    request.cancelled = True
                    pending.pop(sink, None)
                    cancelled += 1
        request, sink = submit(engine, prompt, **sampling)
        live.append((request, sink))
        pending[sink] = number
    for sink, number in pending.items():
        finished[number] = sink.wait().ids
    assert len(finished) > 64
    assert engine.describe()["reused_tokens"] > 500
    wait_until_idle(engine)
    alone = make_engine(max_num_seqs=1)
    for number, ids in finished.items():
        prompt, sampling = wishes[number]
        assert ids == run(alone, prompt, **sampling), (number, prompt, sampling)
        if set(sampling) == {"max_tokens"}:
            assert ids == generate(tiny_qwen2, prompt, sampling["max_tokens"])


HOSTILE: list[dict[str, Any]] = [
    {"temperature": 100.0, "max_tokens": 200},
    {"temperature": 1e-5},
    {"temperature": 1e-5, "seed": 0, "top_p": 1e-9},
    {"top_k": 2**31 - 1, "temperature": 1},
    {"top_k": 1, "temperature": 5},
    {"min_p": 1.0, "temperature": 1},
    {"repetition_penalty": 0.01},
    {"repetition_penalty": 100.0, "temperature": 1},
    {"presence_penalty": 2, "frequency_penalty": 2, "temperature": 1, "max_tokens": 300},
    {"presence_penalty": -2, "frequency_penalty": -2},
    {"logprobs": 20},
    {"seed": 2**63 - 1, "temperature": 1},
    {"logit_bias": {str(id_): 100 for id_ in range(VOCABULARY)}},
    {"logit_bias": {"0": -100, "127": 100}, "temperature": 1, "top_k": 1},
    {"max_tokens": 2**31 - 1},
]


def test_hostile_parameters_change_nothing_for_others(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    engine = make_engine(max_num_seqs=32)
    prompts = [random_prompt(seed, 20 + seed) for seed in range(8)]
    hostile = [submit(engine, [1 + i], **wish)[0] for i, wish in enumerate(HOSTILE)]
    outside = [submit(engine, [VOCABULARY + 5]), submit(engine, []), submit(engine, [-1])]
    outside.append(submit(engine, [1], logit_bias={str(VOCABULARY): 1}))
    sinks = [submit(engine, prompt, max_tokens=30)[1] for prompt in prompts]
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.wait().ids == generate(tiny_qwen2, prompt, 30)
    assert all(isinstance(sink.wait().error, EngineError) for _, sink in outside)
    for request in hostile:
        request.cancelled = True
    wait_until_idle(engine)


def test_logit_bias_forbids_and_forces(engine: PyTorchEngine) -> None:
    plain = run(engine, [1, 2, 3])
    assert run(engine, [1, 2, 3], logit_bias={str(plain[0]): -100})[0] != plain[0]
    assert run(engine, [1, 2, 3], logit_bias={"77": 100}) == [77] * 12


@pytest.mark.parametrize("chunk", [7, CHUNK])
def test_prompt_logprobs_are_those_of_one_pass(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel, chunk: int
) -> None:
    engine = make_engine(prefill_chunk_tokens=chunk)
    prompt = random_prompt(6, 30)
    run(engine, prompt)  # its cached prefix must be computed again
    beside = [submit(engine, random_prompt(seed, 9), max_tokens=60)[1] for seed in range(3)]
    tokens = submit(engine, prompt, prompt_logprobs=2)[1].wait().tokens
    with torch.inference_mode():
        expected = tiny_qwen2(torch.tensor([prompt])).logits[0].log_softmax(-1)
    first, *rest = tokens
    assert [part.id for part in first.prompt] == prompt[1:]
    assert all(not token.prompt for token in rest)
    for place, part in enumerate(first.prompt):
        row = expected[place]
        assert part.logprob == pytest.approx(float(row[part.id]), abs=1e-4)
        assert part.rank == int((row > row[part.id]).sum()) + 1
        assert [id_ for id_, _ in part.top] == row.topk(2).indices.tolist()
    assert [token.id for token in tokens] == generate(tiny_qwen2, prompt)
    assert submit(engine, [5], prompt_logprobs=1)[1].wait().tokens[0].prompt == ()
    for sink in beside:
        assert len(sink.wait().ids) == 60


# --- what was computed before -------------------------------------------------------------------


def test_a_shared_prefix_is_computed_once(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    """At once, later, and after the answer: chats go on where they were."""
    engine = make_engine()
    prefix = random_prompt(0, 512)
    prompts = [prefix + random_prompt(seed, 9) for seed in range(1, 9)]
    sinks = [submit(engine, prompt)[1] for prompt in prompts]
    for prompt, sink in zip(prompts, sinks, strict=True):
        assert sink.wait().ids == generate(tiny_qwen2, prompt)
    assert engine.describe()["reused_tokens"] >= 7 * 512
    before = engine.describe()["reused_tokens"]
    chat = prompts[0] + sinks[0].ids + [5, 6, 7]
    assert run(engine, chat) == generate(tiny_qwen2, chat)
    assert engine.describe()["reused_tokens"] - before >= 512 + 9 + 11


def test_prompts_with_different_salts_share_no_prefix(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    engine = make_engine()
    prompt = random_prompt(6, 200)
    at_once = [submit(engine, prompt, cache_salt=salt)[1] for salt in ("a", "b", None)]
    for sink in at_once:
        assert sink.wait().ids == generate(tiny_qwen2, prompt)
    assert run(engine, prompt, cache_salt="c") == generate(tiny_qwen2, prompt)
    assert engine.describe()["reused_tokens"] == 0
    for salt in ("c", None):
        assert run(engine, prompt, cache_salt=salt) == generate(tiny_qwen2, prompt)
    assert engine.describe()["reused_tokens"] == 2 * 199


def test_more_prefixes_than_slots_push_out_the_oldest(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    engine = make_engine(max_num_seqs=2)
    prompts = [random_prompt(seed, 40) for seed in range(3)]
    for prompt in [*prompts, prompts[2], prompts[1], prompts[0]]:
        assert run(engine, prompt) == generate(tiny_qwen2, prompt)
    assert engine.describe()["reused_tokens"] == 2 * 39  # the last token is always computed


def test_the_same_prompt_many_times_at_once(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    """``n`` answers to one prompt: one is computed, the others wait for it and copy it."""
    engine = make_engine(prefill_chunk_tokens=32)
    prompt = random_prompt(4, 200)
    sinks = [submit(engine, prompt, temperature=2, seed=seed)[1] for seed in range(8)]
    answers = [tuple(sink.wait().ids) for sink in sinks]
    assert len(set(answers)) == 8
    assert engine.describe()["reused_tokens"] >= 7 * (200 - MIN_SHARED_PREFIX)
    assert run(engine, prompt) == generate(tiny_qwen2, prompt)


# --- how generation ends ------------------------------------------------------------------------


def test_max_tokens_ends_with_length(engine: PyTorchEngine) -> None:
    for count in (1, 2, 7):
        sink = submit(engine, [1, 2, 3], max_tokens=count)[1].wait()
        assert (len(sink.ids), sink.finish_reason) == (count, "length")


@pytest.mark.parametrize(("prompt", "expected"), [(1, 15), (10, 6), (15, 1)])
def test_the_contexts_end_ends_with_length(
    make_engine: MakeEngine, prompt: int, expected: int
) -> None:
    engine = make_engine(context_length=16)
    sink = submit(engine, random_prompt(0, prompt), max_tokens=100)[1].wait()
    assert (len(sink.ids), sink.finish_reason) == (expected, "length")


def test_an_end_of_sequence_token_ends_with_stop(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    prompt = random_prompt(3, 8)
    expected = generate(tiny_qwen2, prompt)
    end = expected[4]
    engine = make_engine(eos=[end, VOCABULARY - 1])
    sink = submit(engine, prompt)[1].wait()
    assert sink.ids == expected[: expected.index(end) + 1]
    assert sink.finish_reason == "stop"

    sink = submit(engine, prompt, ignore_eos=True)[1].wait()
    assert (sink.ids, sink.finish_reason) == (expected, "length")


def test_an_end_of_sequence_as_the_last_token_is_a_stop(
    make_engine: MakeEngine, tiny_qwen2: PreTrainedModel
) -> None:
    prompt = random_prompt(3, 8)
    expected = generate(tiny_qwen2, prompt)
    first = expected.index(expected[4]) + 1
    engine = make_engine(eos=[expected[4]])
    assert submit(engine, prompt, max_tokens=first)[1].wait().finish_reason == "stop"


# --- cancellation -------------------------------------------------------------------------------


def test_cancelling_a_running_request_frees_its_slot(make_engine: MakeEngine) -> None:
    engine = make_engine(max_num_seqs=1)
    request, sink = submit(engine, [1], max_tokens=ENDLESS)
    assert sink.started.wait(PATIENCE_SECONDS)
    _, following = submit(engine, [2], max_tokens=3)
    assert occupancy(engine) == (1, 1)
    request.cancelled = True
    assert len(following.wait().ids) == 3
    wait_until_idle(engine)
    assert not sink.ended.is_set()


def test_a_request_cancelled_while_queued_never_runs(make_engine: MakeEngine) -> None:
    engine = make_engine(max_num_seqs=1)
    running, first = submit(engine, [1], max_tokens=ENDLESS)
    assert first.started.wait(PATIENCE_SECONDS)
    queued, second = submit(engine, [2])
    queued.cancelled = True
    wait_for(lambda: occupancy(engine) == (1, 0))  # while the other goes on
    running.cancelled = True
    wait_until_idle(engine)
    assert (second.tokens, second.ended.is_set()) == ([], False)


def test_cancelling_in_the_middle_of_a_long_prompt(make_engine: MakeEngine) -> None:
    engine = make_engine(prefill_chunk_tokens=1)
    request, sink = submit(engine, random_prompt(0, 4000))
    wait_for(lambda: occupancy(engine) == (1, 0))
    request.cancelled = True
    wait_until_idle(engine)
    assert sink.tokens == []


def test_a_long_prompt_does_not_hold_up_the_others(make_engine: MakeEngine) -> None:
    engine = make_engine(prefill_chunk_tokens=4)
    _, long = submit(engine, random_prompt(0, 1000))
    _, short = submit(engine, [1, 2], max_tokens=20)
    assert len(short.wait().ids) == 20
    assert not long.started.is_set()
    assert len(long.wait().ids) == 12


def test_long_prompts_hold_running_answers_up_by_one_chunk_at_most(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step gives each running answer a token, and computes no more of prompts than a chunk."""
    steps: list[list[Segment]] = []
    compute = SlotRunner.compute

    def record(runner: SlotRunner, segments: list[Segment], *rest: Any) -> torch.Tensor:  # noqa: ANN401
        steps.append(segments)
        return compute(runner, segments, *rest)

    monkeypatch.setattr(SlotRunner, "compute", record)
    engine = make_engine(prefill_chunk_tokens=64)
    answers = [submit(engine, random_prompt(seed, 9), max_tokens=150) for seed in range(8)]
    assert all(sink.started.wait(PATIENCE_SECONDS) for _, sink in answers)
    begun = len(steps)
    long = [submit(engine, random_prompt(50 + n, 600 + 100 * n))[1] for n in range(4)]
    for sink in long:
        sink.wait()
    while_long = steps[begun:-1]
    assert sum(s.length for step in while_long for s in step if s.length > 1) >= 2400
    for step in while_long:
        assert sum(s.length for s in step if s.length > 1) <= 64
        if any(s.start > 9 and s.length == 1 for s in step):
            assert sum(s.length == 1 for s in step) >= 8
    for _, sink in answers:
        assert len(sink.wait().ids) == 150


# --- limits and failures ------------------------------------------------------------------------


def test_the_queue_is_bounded(make_engine: MakeEngine) -> None:
    engine = make_engine(max_num_seqs=1, max_queue_size=2)
    running, sink = submit(engine, [1], max_tokens=ENDLESS)
    assert sink.started.wait(PATIENCE_SECONDS)
    queued = [submit(engine, [2], max_tokens=2)[1] for _ in range(2)]
    with pytest.raises(Overloaded):
        submit(engine, [3])
    assert occupancy(engine) == (1, 2)
    running.cancelled = True
    assert [len(sink.wait().ids) for sink in queued] == [2, 2]
    assert len(run(engine, [3])) == 12


@pytest.mark.parametrize("max_queue_size", [0, 1])
def test_a_burst_that_the_slots_can_take_is_not_turned_away(
    make_engine: MakeEngine, max_queue_size: int
) -> None:
    engine = make_engine(max_num_seqs=16, max_queue_size=max_queue_size)
    running, first = submit(engine, [1], max_tokens=ENDLESS)
    assert first.started.wait(PATIENCE_SECONDS)
    burst = [submit(engine, [2], max_tokens=2)[1] for _ in range(15)]
    assert [len(sink.wait().ids) for sink in burst] == [2] * 15
    running.cancelled = True


@pytest.mark.parametrize(
    ("prompt", "output"),
    [
        pytest.param([1, VOCABULARY + 100], [], id="prompt"),
        pytest.param([1], [VOCABULARY], id="output"),
        pytest.param([], [], id="empty"),
    ],
)
def test_a_request_that_cannot_be_computed_fails_alone(
    engine: PyTorchEngine, tiny_qwen2: PreTrainedModel, prompt: list[int], output: list[int]
) -> None:
    good = random_prompt(5, 12)
    before = submit(engine, good, max_tokens=40)[1]
    bad = submit(engine, prompt, output_ids=output)[1]
    after = submit(engine, good)[1]
    assert isinstance(bad.wait().error, EngineError)
    assert before.wait().ids == generate(tiny_qwen2, good, 40)
    assert after.wait().ids == generate(tiny_qwen2, good)
    wait_until_idle(engine)


def test_a_step_that_fails_after_some_tokens_fails_alone(make_engine: MakeEngine) -> None:
    """GPT-2 has no position 16: an engine with a longer context reaches it."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=32, n_layer=1, n_head=2, eos_token_id=None
    )
    engine = make_engine(GPT2LMHeadModel(config).eval(), context_length=64)
    bad, good = submit(engine, [1] * 10, max_tokens=30)[1], submit(engine, [1], max_tokens=15)[1]
    assert isinstance(bad.wait().error, EngineError)
    assert str(bad.error).startswith("generation failed: IndexError")
    assert len(bad.tokens) == 7  # positions 9 to 15
    assert len(good.wait().ids) == 15
    wait_until_idle(engine)
    assert len(run(engine, [2, 3], max_tokens=5)) == 5


def test_a_sink_that_fails_takes_nobody_with_it(engine: PyTorchEngine) -> None:
    class Refusing(Recorder):
        def put(self, token: Token, finish_reason: FinishReason | None) -> None:
            raise OSError("the pipe is closed")

    refusing = Refusing()
    engine.submit(EngineRequest([1], SamplingParameters(), refusing))
    assert "the pipe is closed" in str(refusing.wait().error)
    assert len(run(engine, [1])) == 12
    wait_until_idle(engine)


# --- the end ------------------------------------------------------------------------------------


def test_close_fails_what_is_left_and_refuses_more(make_engine: MakeEngine) -> None:
    engine = make_engine(max_num_seqs=2)
    sinks = [submit(engine, [1], max_tokens=ENDLESS)[1] for _ in range(5)]
    assert sinks[1].started.wait(PATIENCE_SECONDS)
    engine.close()
    assert [type(sink.wait().error) for sink in sinks] == [ShuttingDown] * 5
    with pytest.raises(ShuttingDown):
        submit(engine, [1])
    with pytest.raises(EngineError, match="died"):
        engine.describe()
    engine.close()  # again, without harm


def test_an_idle_engine_closes(make_engine: MakeEngine) -> None:
    make_engine().close()


def test_the_description_has_the_models_facts(
    engine: PyTorchEngine, tiny_qwen2: PreTrainedModel
) -> None:
    facts = engine.describe()
    assert facts["backend"] == "pytorch"
    assert facts["type"] == "causal_lm"
    assert facts["parameters"] == sum(p.numel() for p in tiny_qwen2.parameters())
    assert facts["context_length"] == engine.context_length == CONTEXT
    assert facts["max_num_seqs"] == 16
    assert (facts["running"], facts["waiting"]) == (0, 0)
    assert engine.vocab_size == VOCABULARY
