"""Many architectures through the whole of loading: equal to ``generate``, or served one by one."""

from __future__ import annotations

import random
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from backends.batching.runner import Segment
from backends.pytorch import memory
from backends.pytorch.engine import PyTorchEngine
from backends.pytorch.loading import LoadOptions, load
from backends.pytorch.memory import plan_context
from backends.pytorch.packing import Int8Linear, PackedLinear, can_pack
from backends.pytorch.runner import SequentialRunner, SlotRunner
from backends.pytorch.self_check import SelfCheck
from backends.pytorch.slots import LayerShape
from backends.pytorch.weights import PickledWeights
from backends.vllm.pickles import refuse_pickles
from tests.support.architectures import BATCHED, SEQUENTIAL, save_random
from tests.support.engines import VOCABULARY, generate, submit
from tests.support.pickles import KINDS

CROWD = (1, 5, 9, 14, 23, 40)

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="torch.compile needs a C++ compiler and Python's headers",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, PreTrainedModel]]:
    folder = tmp_path_factory.mktemp("qwen2")
    yield folder, save_random("qwen2", {}, folder)


def start(folder: Path, **parameters: str) -> PyTorchEngine:
    options = LoadOptions.of(str(folder), {"max_num_seqs": "6", **parameters})
    return PyTorchEngine(lambda: load(options), prefill_chunk_tokens=7, num_threads=1)


def prompts() -> list[list[int]]:
    chance = random.Random(3)
    return [[chance.randrange(VOCABULARY) for _ in range(length)] for length in CROWD]


def outputs(engine: PyTorchEngine, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    sinks = [submit(engine, prompt, max_tokens=10)[1] for prompt in prompts]
    return [sink.wait().ids for sink in sinks]


@pytest.mark.parametrize("model_type", BATCHED)
def test_concurrent_requests_get_the_tokens_of_generate(folder: Path, model_type: str) -> None:
    model = save_random(model_type, BATCHED[model_type], folder)
    engine = start(folder)
    try:
        assert engine.describe()["batching"] == "slots", engine.describe().get("fallback")
        expected = [generate(model, prompt, 10) for prompt in prompts()]
        assert outputs(engine, prompts()) == expected
        assert outputs(engine, prompts()) == expected  # from what the slots hold now
    finally:
        engine.close()


@pytest.mark.parametrize("model_type", SEQUENTIAL)
def test_what_slots_cannot_hold_is_served_all_the_same(
    folder: Path, model_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = save_random(model_type, SEQUENTIAL[model_type], folder)
    engine = start(folder)
    try:
        facts = engine.describe()
        assert (facts["batching"], bool(facts["fallback"])) == ("sequential", True)
        assert "without continuous batching" in caplog.text
        assert outputs(engine, prompts()) == [generate(model, p, 10) for p in prompts()]
    finally:
        engine.close()


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "level", "dtype"),
    [
        ({}, "O0", "float32"),
        ({"optimization_level": "O0"}, "O0", "float32"),
        ({"optimization_level": "O1"}, "O1", "float32"),
        ({"optimization_level": "O2"}, "O2", "bfloat16"),
        ({"optimization_level": "O2", "torch_dtype": "float16"}, "O2", "float16"),
        ({"optimization_level": "O3"}, "O3", "bfloat16"),
        ({"torch_dtype": "bfloat16"}, "O3", "bfloat16"),
        ({"quantization": "int8"}, "O0", "int8"),
        pytest.param({"compile_model": "true"}, "O0", "float32", marks=NEEDS_COMPILER),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the compiler's own
def test_every_precision_is_near_the_exact_one(
    qwen2: tuple[Path, PreTrainedModel], parameters: dict[str, str], level: str, dtype: str
) -> None:
    folder, model = qwen2
    options = LoadOptions.of(str(folder), {"max_num_seqs": "4", **parameters})
    loaded = load(options)
    assert isinstance(loaded.runner, SlotRunner), loaded.facts
    assert (loaded.facts["optimization_level"], loaded.facts["dtype"]) == (level, dtype)
    check = SelfCheck.of(model, VOCABULARY, 256)
    limit = {"float32": 1e-3, "int8": 0.2}.get(dtype, 0.06) if level != "O1" else 0.06
    deviation = check.deviation(loaded.runner)
    assert deviation < limit
    if level != "O0" or dtype == "int8":
        assert deviation > 1e-4, "nothing became less precise"


def test_norms_of_o2_compute_in_float32(qwen2: tuple[Path, PreTrainedModel]) -> None:
    loaded = load(LoadOptions.of(str(qwen2[0]), {"optimization_level": "O2", "max_num_seqs": "1"}))
    assert isinstance(loaded.runner, SlotRunner)
    dtypes = {name: p.dtype for name, p in loaded.runner._model.named_parameters()}
    assert {t for name, t in dtypes.items() if "norm" in name} == {torch.float32}
    assert {t for name, t in dtypes.items() if "norm" not in name} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"torch_dtype": "float8"}, "torch_dtype: must be one of auto, float32"),
        ({"optimization_level": "O4"}, "optimization_level: must be one of auto, O0"),
        ({"optimization_level": "O0", "torch_dtype": "bfloat16"}, "contradicts torch_dtype"),
        ({"optimization_level": "O3", "torch_dtype": "float32"}, "contradicts torch_dtype"),
        ({"quantization": "int8", "torch_dtype": "float16"}, "quantization: int8 goes with"),
        ({"compile_model": "perhaps"}, "compile_model: must be one of"),
        ({"cuda_graphs": "yes"}, "cuda_graphs: must be one of auto, true, false"),
        ({"cuda_graphs": "true"}, "cuda_graphs: true is for a GPU, and device is cpu"),
        ({"max_num_seqs": "0"}, "max_num_seqs: must be at least 1"),
        ({"memory_utilization": "1.5"}, "memory_utilization: must be above 0"),
        ({"max_model_len": "257"}, "max_model_len: must be from 1 to 256"),
        ({"device": "cuda:7"}, "device: cuda:7 was asked for"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    qwen2: tuple[Path, PreTrainedModel], parameters: dict[str, str], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        load(LoadOptions.of(str(qwen2[0]), parameters))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiler_that_is_missing_is_an_error(
    qwen2: tuple[Path, PreTrainedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    with pytest.raises(ValueError, match=r"^compile_model: "):
        load(LoadOptions.of(str(qwen2[0]), {"compile_model": "true"}))


def test_a_load_that_fails_fails_the_engine(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        start(tmp_path / "nowhere")


# --- packed weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 16, 200])
def test_packed_weights_compute_what_linear_computes(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 80, bias=bias)
    x = torch.randn(1, rows, 48)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(linear)(x), linear(x), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_int8_weights_are_within_a_percent(scale: float) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 80)
    x = torch.randn(1, 5, 256) * scale
    with torch.inference_mode():
        expected = linear(x)
        error = (Int8Linear(linear)(x) - expected).norm() / expected.norm()
    assert error < 0.02


def test_a_datatype_that_this_cpu_cannot_pack_is_found_out() -> None:
    assert can_pack(torch.float32)
    assert not can_pack(torch.float16)


# --- memory -------------------------------------------------------------------------------------

SHAPES = [LayerShape(2, 64, 64, torch.float32)] * 4  # 4 KiB a token


@pytest.mark.parametrize(
    ("slots", "context", "budget_mib", "fixed", "expected"),
    [
        (16, 2048, 128, True, 2048),
        (16, 4096, 128, False, 2048),
        (1, 10**6, 4, False, 1024),
    ],
)
def test_the_context_is_what_fits(
    slots: int, context: int, budget_mib: int, fixed: bool, expected: int
) -> None:
    budget = budget_mib << 20
    planned = plan_context(SHAPES, slots, context, budget=budget, fixed=fixed)
    assert planned == expected


def test_a_cache_that_does_not_fit_is_an_error_with_what_would() -> None:
    with pytest.raises(ValueError, match=r"16 sequences of 4096 tokens need 0\.25 GiB") as caught:
        plan_context(SHAPES, 16, 4096, budget=128 << 20, fixed=True)
    assert "max_num_seqs 8 or max_model_len 2048" in str(caught.value)
    with pytest.raises(ValueError, match="nothing, not even one sequence"):
        plan_context(SHAPES, 16, 4096, budget=0, fixed=False)


def test_scratch_positions_are_planned_for() -> None:
    """4 slots of 256 tokens each: a position more, and a token less of context."""
    assert plan_context(SHAPES, 4, 2048, budget=4 << 20, fixed=False) == 256
    with pytest.raises(ValueError, match="what would fit: max_num_seqs 3 or max_model_len 255"):
        plan_context(SHAPES, 4, 256, budget=4 << 20, fixed=True, scratch=1)
    with pytest.raises(ValueError, match="nothing, not even one sequence"):
        plan_context(SHAPES, 4, 256, budget=8 << 10, fixed=True, scratch=1)


def test_loading_plans_with_the_memory_there_is(
    qwen2: tuple[Path, PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 20)
    options = LoadOptions.of(str(qwen2[0]), {"max_num_seqs": "64", "max_model_len": "256"})
    with pytest.raises(ValueError, match="max_num_seqs: 64 sequences of 256 tokens need"):
        load(options)


def test_a_model_whose_batched_logits_are_wrong_is_not_batched(
    qwen2: tuple[Path, PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention that forgets its past: what a wrong mask or cache would look like."""
    monkeypatch.setattr(Segment, "end", property(lambda s: s.length))
    loaded = load(LoadOptions.of(str(qwen2[0]), {"max_num_seqs": "4"}))
    assert isinstance(loaded.runner, SequentialRunner)


@pytest.mark.parametrize("kind", KINDS)
def test_pickles_are_read_when_they_are_allowed(folder: Path, kind: str) -> None:
    model = save_random("qwen2", {}, folder)
    KINDS[kind](folder)
    with pytest.raises(PickledWeights, match=r"^model: .*\(pytorch_model.*allow_pickle_weights$"):
        load(LoadOptions.of(str(folder), {}))
    options = {"allow_pickle_weights": "True", "torch_dtype": "float32"}
    if kind == "shards of an index of safetensors":
        return  # whatever is allowed: transformers takes them for what the index says
    loaded = load(LoadOptions.of(str(folder), options))
    assert loaded.facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert loaded.allow_pickle_weights


def test_vllm_is_not_given_pickles(folder: Path) -> None:
    save_random("qwen2", {}, folder)
    refuse_pickles("model", str(folder))
    refuse_pickles("model", "some/hub-id")
    KINDS["shards"](folder)
    with pytest.raises(ValueError, match=r"^lora_modules: .*\(pytorch_model-00001-of-00002\.bin\)"):
        refuse_pickles("lora_modules", str(folder))


def test_a_folder_without_weights_is_no_pickle(folder: Path) -> None:
    save_random("qwen2", {}, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named"):
        load(LoadOptions.of(str(folder), {}))
