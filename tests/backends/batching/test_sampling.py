"""The sampler draws what ``generate`` draws, and draws it with the probabilities it should."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from backends.batching.sampling import Sampler, sample
from backends.contract.sampling import SamplingParameters
from backends.engine import Token

CPU = torch.device("cpu")
PROMPT = [5, 9, 5, 77, 1, 100]
NEW_TOKENS = 8


def sampler(
    vocabulary: int,
    prompt_ids: Sequence[int] = (0,),
    output_ids: Sequence[int] = (),
    **parameters: Any,  # noqa: ANN401
) -> Sampler:
    return Sampler(SamplingParameters(**parameters), prompt_ids, output_ids, vocabulary, CPU)


def drive(model: PreTrainedModel, sampler: Sampler, count: int = NEW_TOKENS) -> list[int]:
    """Feed the sampler with the model's logits, token by token."""
    ids = list(PROMPT)
    cache = DynamicCache(config=model.config)
    given = ids
    with torch.inference_mode():
        for _ in range(count):
            logits = model(torch.tensor([given]), cache=cache, use_cache=True).logits
            given = [sampler.sample(logits[0, -1].float()).id]
            ids += given
    return ids[len(PROMPT) :]


def generate(model: PreTrainedModel, **options: Any) -> list[int]:  # noqa: ANN401
    ids = torch.tensor([PROMPT])
    made: Tensor = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        pad_token_id=0,
        **options,
    )
    return [int(id_) for id_ in made[0, len(PROMPT) :]]


# --- against transformers -----------------------------------------------------------------------

TEMPERATURES, TOP_K, TOP_P, MIN_P, REPETITION = (
    (0.3, 1.0, 5.0),
    (0, 1, 20),
    (1.0, 0.8),
    (0.0, 0.05),
    (1.0, 1.3),
)


@pytest.mark.parametrize("repetition_penalty", REPETITION)
@pytest.mark.parametrize("top_k", TOP_K)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_seeded_draws_are_those_of_generate(
    tiny_qwen2: PreTrainedModel, temperature: float, top_k: int, repetition_penalty: float
) -> None:
    for seed, (top_p, min_p) in enumerate(itertools.product(TOP_P, MIN_P)):
        options: dict[str, Any] = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
        }
        torch.manual_seed(seed)
        expected = generate(tiny_qwen2, do_sample=True, **options)
        ours = sampler(tiny_qwen2.config.vocab_size, PROMPT, seed=seed, **options)
        assert drive(tiny_qwen2, ours) == expected, (top_p, min_p)


@pytest.mark.parametrize("repetition_penalty", [0.8, 1.0, 1.3, 2.0])
def test_greedy_tokens_are_those_of_generate(
    tiny_qwen2: PreTrainedModel, repetition_penalty: float
) -> None:
    ours = sampler(
        tiny_qwen2.config.vocab_size,
        PROMPT,
        temperature=0,
        repetition_penalty=repetition_penalty,
    )
    assert drive(tiny_qwen2, ours) == generate(
        tiny_qwen2, do_sample=False, repetition_penalty=repetition_penalty
    )


def test_filters_do_nothing_to_greedy_tokens(tiny_qwen2: PreTrainedModel) -> None:
    ours = sampler(128, PROMPT, temperature=0, top_k=3, top_p=0.1, min_p=0.9, seed=4)
    assert drive(tiny_qwen2, ours) == generate(tiny_qwen2, do_sample=False)


def test_the_global_generator_is_neither_used_nor_moved(tiny_qwen2: PreTrainedModel) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drive(tiny_qwen2, sampler(128, PROMPT, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert drive(tiny_qwen2, sampler(128, PROMPT, seed=3)) == first


def test_two_samplers_do_not_disturb_each_other() -> None:
    logits = torch.zeros(64)
    alone = [made.sample(logits).id for made in [sampler(64, seed=1)] for _ in range(20)]
    one, other = sampler(64, seed=1), sampler(64, seed=2)
    together = [(one.sample(logits).id, other.sample(logits).id) for _ in range(20)]
    assert [pair[0] for pair in together] == alone
    assert [pair[1] for pair in together] != alone


def test_without_a_seed_every_sampler_draws_differently() -> None:
    logits = torch.zeros(1000)
    runs = {tuple(s.sample(logits).id for _ in range(8)) for s in (sampler(1000), sampler(1000))}
    assert len(runs) == 2


def test_logits_are_left_as_they_were() -> None:
    logits = torch.randn(32, generator=torch.Generator().manual_seed(0))
    copy = logits.clone()
    made = sampler(
        32,
        [1, 2],
        seed=0,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.5,
        presence_penalty=1,
        frequency_penalty=1,
        logprobs=3,
    )
    made.sample(logits)
    made.sample(logits)
    assert torch.equal(logits, copy)


# --- penalties ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("presence", "frequency"), [(0, 0), (0.5, 0), (0, 0.7), (2, 2), (-1, 0), (0, -0.25), (1, -0.5)]
)
def test_presence_and_frequency_penalties_follow_the_formula(
    presence: float, frequency: float
) -> None:
    """``logit - presence * (count > 0) - frequency * count``, with counts of the output alone."""
    generator = torch.Generator().manual_seed(7)
    prompt, vocabulary = [1, 1, 2], 24
    counts = [0] * vocabulary
    ours = sampler(
        vocabulary, prompt, temperature=0, presence_penalty=presence, frequency_penalty=frequency
    )
    for _ in range(60):
        logits = torch.randn(vocabulary, generator=generator)
        scores = [
            float(logit) - presence * (count > 0) - frequency * count
            for logit, count in zip(logits, counts, strict=True)
        ]
        expected = scores.index(max(scores))
        assert ours.sample(logits).id == expected
        counts[expected] += 1


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.8])
def test_the_repetition_penalty_follows_the_formula(penalty: float) -> None:
    """Of tokens in prompt or output, positive logits are divided and negative ones multiplied."""
    generator = torch.Generator().manual_seed(7)
    prompt, vocabulary = [1, 1, 2], 24
    seen = set(prompt)
    ours = sampler(vocabulary, prompt, temperature=0, repetition_penalty=penalty)
    for _ in range(40):
        logits = torch.randn(vocabulary, generator=generator) - 2  # mostly negative
        scores = [float(logit) for logit in logits]
        for id_ in seen:
            scores[id_] = scores[id_] / penalty if scores[id_] > 0 else scores[id_] * penalty
        expected = scores.index(max(scores))
        assert ours.sample(logits).id == expected
        seen.add(expected)


def test_penalties_count_the_tokens_of_a_resumed_output() -> None:
    logits = torch.tensor([3.0, 2.9, 0.0])
    fresh, resumed = (
        sampler(3, [2], output_ids=output, temperature=0, frequency_penalty=0.2)
        for output in ([], [0])
    )
    assert (fresh.sample(logits).id, resumed.sample(logits).id) == (0, 1)


# --- distributions ------------------------------------------------------------------------------

LOGITS = [2.0, 1.5, 1.4, 0.9, 0.3, 0.0, -0.4, -1.0, -1.6, -2.5]
DRAWS = 8_000
# Upper 0.1% points of the chi-square distribution, by degrees of freedom.
CRITICAL = (0.0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88)


def normalised(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]


def exact_probabilities(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> list[float]:
    """The definitions, over `LOGITS` (which descend). Filters renormalise one after the other."""
    probabilities = normalised([math.exp(logit / temperature) for logit in LOGITS])
    if top_k:
        kept = [p if rank < top_k else 0.0 for rank, p in enumerate(probabilities)]
        probabilities = normalised(kept)
    mass, kept = 0.0, []
    for p in probabilities:
        kept.append(p if mass < top_p else 0.0)  # the fewest that together reach top_p
        mass += p
    probabilities = normalised(kept)
    floor = min_p * max(probabilities)
    return normalised([p if p >= floor else 0.0 for p in probabilities])


@pytest.mark.parametrize(
    ("parameters", "possible"),
    [
        ({"temperature": 0.5}, 10),
        ({"top_k": 4}, 4),
        ({"top_p": 0.7}, 3),
        ({"min_p": 0.2}, 4),
    ],
)
def test_draws_have_the_exact_probabilities(parameters: dict[str, Any], possible: int) -> None:
    expected = exact_probabilities(**parameters)
    assert sum(p > 0 for p in expected) == possible
    ours, logits = sampler(len(LOGITS), seed=20, **parameters), torch.tensor(LOGITS)
    counts = [0] * len(LOGITS)
    with torch.inference_mode():
        for _ in range(DRAWS):
            counts[ours.sample(logits).id] += 1
    assert [count for count, p in zip(counts, expected, strict=True) if p == 0 and count] == []
    statistic = sum(
        (count - DRAWS * p) ** 2 / (DRAWS * p)
        for count, p in zip(counts, expected, strict=True)
        if p > 0
    )
    assert statistic < CRITICAL[possible - 1]


@pytest.mark.parametrize(
    "parameters",
    [
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.0},
        {"frequency_penalty": -0.7},
        {"logit_bias": {"0": -2.0, "9": 1.5}},
    ],
)
def test_penalties_have_the_exact_probabilities(parameters: dict[str, Any]) -> None:
    """Tokens 0 and 4 are in the prompt, 4 twice in the output; a new sampler for each draw."""
    scores = list(LOGITS)
    for id_, bias in parameters.get("logit_bias", {}).items():
        scores[int(id_)] += bias
    factor = parameters.get("repetition_penalty", 1)
    for id_ in (0, 4):
        scores[id_] = scores[id_] / factor if scores[id_] > 0 else scores[id_] * factor
    scores[4] -= parameters.get("presence_penalty", 0) + 2 * parameters.get("frequency_penalty", 0)
    expected = normalised([math.exp(score) for score in scores])
    counts = [0] * len(LOGITS)
    with torch.inference_mode():
        for _ in range(DRAWS // 500):
            batch = [
                sampler(len(LOGITS), [0, 4], output_ids=[4, 4], **parameters) for _ in range(500)
            ]
            for token in sample(batch, torch.tensor([LOGITS] * 500)):
                counts[token.id] += 1
    statistic = sum(
        (count - DRAWS * p) ** 2 / (DRAWS * p) for count, p in zip(counts, expected, strict=True)
    )
    assert statistic < CRITICAL[9]


# --- a large vocabulary, of which only the most probable tokens are looked at --------------------

LARGE = 20_000


@pytest.mark.parametrize("flat", [False, True])  # flat: the candidates do not hold enough mass
@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 50},
        {"top_k": 5000},
        {"top_p": 0.9},
        {"min_p": 0.05},
        {"top_k": 3000, "top_p": 0.8},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.02},
        {"top_p": 0.95, "min_p": 0.001},
    ],
)
def test_a_large_vocabulary_is_filtered_as_generate_does(
    parameters: dict[str, Any], flat: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    warpers = LogitsProcessorList(
        [
            *([TopKLogitsWarper(parameters["top_k"])] if "top_k" in parameters else []),
            *([TopPLogitsWarper(parameters["top_p"])] if "top_p" in parameters else []),
            *([MinPLogitsWarper(parameters["min_p"])] if "min_p" in parameters else []),
        ]
    )
    for seed in range(12):
        logits = torch.randn(1, LARGE, generator=generator) * (0.01 if flat else 3)
        probabilities = warpers(torch.zeros(1, 1, dtype=torch.int64), logits).softmax(-1)
        own = torch.Generator().manual_seed(seed)
        expected = int(torch.multinomial(probabilities, 1, generator=own))
        beside = [sampler(LARGE, temperature=0), sampler(LARGE, top_k=3)]
        drawn = sample([sampler(LARGE, seed=seed, **parameters), *beside], logits.repeat(3, 1))
        assert drawn[0].id == expected
        assert drawn[1].id == int(logits.argmax())
        assert drawn[2].id in logits[0].topk(3).indices.tolist()


@pytest.mark.parametrize(
    "parameters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-5}]
)
def test_the_narrowest_filters_leave_the_most_probable_token(parameters: dict[str, Any]) -> None:
    ours, logits = sampler(len(LOGITS), **parameters), torch.tensor(LOGITS)
    assert {ours.sample(logits).id for _ in range(100)} == {0}


@pytest.mark.parametrize("top_k", [10, 11, 2**31 - 1])
def test_top_k_may_exceed_the_vocabulary(top_k: int) -> None:
    logits = torch.tensor(LOGITS)
    limited, free = sampler(len(LOGITS), seed=3, top_k=top_k), sampler(len(LOGITS), seed=3)
    assert [limited.sample(logits) for _ in range(50)] == [free.sample(logits) for _ in range(50)]


@pytest.mark.parametrize("temperature", [1e-5, 100.0])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_extreme_temperatures_and_logits_still_draw(temperature: float, scale: float) -> None:
    ours = sampler(len(LOGITS), seed=1, temperature=temperature, top_p=0.9, min_p=0.01)
    drawn = {ours.sample(torch.tensor(LOGITS) * scale).id for _ in range(50)}
    assert drawn <= set(range(len(LOGITS)))


# --- log probabilities --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_logprobs_are_those_of_the_model_itself(count: int) -> None:
    """Before penalties, temperature and filters."""
    generator = torch.Generator().manual_seed(2)
    ours = sampler(
        50, [1], seed=5, temperature=3, top_p=0.95, repetition_penalty=1.4, logprobs=count
    )
    ranks = set()
    for _ in range(20):
        logits = torch.randn(50, generator=generator)
        token = ours.sample(logits)
        values = [float(value) for value in logits]
        total = math.log(sum(math.exp(value) for value in values))
        order = sorted(range(50), key=lambda id_: -values[id_])
        assert token.logprob == pytest.approx(values[token.id] - total, abs=1e-5)
        assert token.rank == order.index(token.id) + 1
        assert [id_ for id_, _ in token.top] == order[:count]
        assert [p for _, p in token.top] == pytest.approx(
            [values[id_] - total for id_ in order[:count]], abs=1e-5
        )
        ranks.add(token.rank)
    assert len(ranks) > 5


def test_more_logprobs_than_the_vocabulary_are_all_of_it() -> None:
    token = sampler(3, temperature=0, logprobs=20).sample(torch.tensor([0.0, 2.0, 1.0]))
    assert [id_ for id_, _ in token.top] == [1, 2, 0]


def test_no_logprobs_unless_asked() -> None:
    assert sampler(3, temperature=0).sample(torch.tensor([0.0, 2.0, 1.0])) == Token(1)


@pytest.mark.parametrize("temperature", [0, 1])
def test_logprobs_do_not_change_the_draw(tiny_qwen2: PreTrainedModel, temperature: float) -> None:
    plain, reporting = (
        drive(tiny_qwen2, sampler(128, PROMPT, seed=8, temperature=temperature, logprobs=logprobs))
        for logprobs in (None, 5)
    )
    assert plain == reporting


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 1.0},
        {"seed": 11},
        {"seed": 11, "temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        {"seed": 11, "presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    ],
)
@pytest.mark.parametrize("vocabulary", [7, 128, 1000])
def test_a_resumed_sampler_goes_on_as_if_never_interrupted(
    parameters: dict[str, Any], vocabulary: int
) -> None:
    generator = torch.Generator().manual_seed(9)
    logits = [torch.randn(vocabulary, generator=generator) for _ in range(20)]
    whole = sampler(vocabulary, [1, 2], **parameters)
    expected = [whole.sample(row).id for row in logits]
    for at in (1, 7, 19):
        resumed = sampler(vocabulary, [1, 2], output_ids=expected[:at], **parameters)
        assert [resumed.sample(row).id for row in logits[at:]] == expected[at:]


@pytest.mark.parametrize(("prompt", "output"), [([128], []), ([1, 4000], []), ([1], [128])])
def test_ids_outside_the_vocabulary_are_refused(prompt: list[int], output: list[int]) -> None:
    with pytest.raises(IndexError):
        sampler(128, prompt, output)


# --- what may come at all -----------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"temperature": 0}, {"seed": 1}, {"seed": 1, "top_k": 2}])
@pytest.mark.parametrize("made", [0, 1])
def test_nothing_ends_an_answer_before_min_tokens(how: dict[str, Any], made: int) -> None:
    parameters = SamplingParameters(min_tokens=3, stop_token_ids=(5,), **how)
    ours = Sampler(parameters, [0], [0] * made, 8, CPU, ends=[3])
    logits = torch.tensor([0.0, 1, 2, 90, 4, 80, 6, 7])
    before = logits.clone()
    ids = [ours.sample(logits).id for _ in range(4 - made)]
    assert not {3, 5} & {*ids[:-1]}
    assert ids[-1] == 3
    assert torch.equal(logits, before)
    beside = [sampler(8, temperature=0), Sampler(parameters, [0], [], 8, CPU, ends=[3])]
    assert [token.id == 3 for token in sample(beside, torch.stack([logits] * 2))] == [True, False]


def test_min_tokens_gives_way_where_nothing_else_is_left() -> None:
    parameters = SamplingParameters(min_tokens=3, temperature=0, allowed_token_ids=(3,))
    ours = Sampler(parameters, [0], [], 8, CPU, ends=[3])
    assert ours.sample(torch.randn(8)).id == 3


@pytest.mark.parametrize(
    "how", [{"temperature": 0}, {"seed": 1}, {"seed": 1, "top_k": 3}, {"seed": 1, "top_p": 0.9}]
)
def test_only_allowed_tokens_come(how: dict[str, Any]) -> None:
    ours = sampler(3000, allowed_token_ids=(2999, 7), repetition_penalty=1.5, logprobs=1, **how)
    for _ in range(20):
        logits = torch.randn(3000)
        logits[[7, 2999]] -= 50
        token = ours.sample(logits)
        assert token.id in (7, 2999)
        assert token.logprob == pytest.approx(float(logits.log_softmax(-1)[token.id]))


def test_a_top_p_of_0_takes_the_best() -> None:
    ours = sampler(50, top_p=0, temperature=100)
    logits = torch.randn(50)
    assert {ours.sample(logits).id for _ in range(20)} == {int(logits.argmax())}
