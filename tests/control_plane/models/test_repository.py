"""What users call a model, and the repository entry that it becomes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from control_plane.embedded.installation import Installation
from control_plane.engines.entry import ModelError
from control_plane.engines.onnx import OnnxSettings
from control_plane.engines.pytorch import PytorchSettings
from control_plane.models.repository import DEFAULT_REPOSITORY, Repository
from control_plane.settings import ServingSettings
from tests.support.server import SCRIPTED

DEFAULTS = ServingSettings()
CONTRACT = 'parameters { key: "contract" value { string_value: "language_model" } }'


def serving(**values: object) -> ServingSettings:
    return ServingSettings.model_validate(values)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "scratch").mkdir()
    return Repository(DEFAULT_REPOSITORY, tmp_path / "scratch")


def weights(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def parameter(config: dict[str, dict[str, dict[str, str]]], key: str) -> str:
    return config["parameters"][key]["string_value"]


def test_a_name_in_the_repository(repository: Repository) -> None:
    entry = repository.resolve("demo", DEFAULTS)
    assert (entry.name, entry.served_name) == ("demo", "demo")
    assert parameter(entry.config, "model") == "weights"
    assert entry.is_complete
    assert repository.resolve(str(DEFAULT_REPOSITORY / "demo"), DEFAULTS) == entry
    assert list(repository.folders[1].iterdir()) == []


@pytest.mark.parametrize(
    ("config", "complete"),
    [
        (f'backend: "python" {CONTRACT}', True),
        ('backend: "python"', False),
        ('backend: "onnxruntime" input { name: "x" } output { name: "y" }', True),
        ('backend: "onnxruntime" input { name: "x" }', False),
        ('backend: "onnxruntime" max_batch_size: 8', False),
        ('platform: "ensemble" input { name: "x" } output { name: "y" }', False),
        ('backend: "tensorrt" input { name: "x" } output { name: "y" }', False),
    ],
)
def test_who_need_not_be_asked_by_triton(
    repository: Repository, tmp_path: Path, config: str, *, complete: bool
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.pbtxt").write_text(config)
    assert repository.resolve(str(folder), DEFAULTS).is_complete is complete


def test_a_model_with_tensors_of_its_own_is_asked(repository: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.pbtxt").write_text(
        'backend: "python" input { name: "more" data_type: TYPE_BOOL dims: 1 } ' + CONTRACT
    )
    entry = repository.resolve(str(folder), DEFAULTS)
    assert not entry.is_complete
    assert [tensor["name"] for tensor in entry.config["input"]] == ["more"]


def test_an_unknown_contract(repository: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.pbtxt").write_text(CONTRACT.replace("language_model", "speech"))
    with pytest.raises(ModelError, match=r"model/config.pbtxt .* must be language_model or text_"):
        repository.resolve(str(folder), DEFAULTS)


def test_a_triton_model_s_folder(repository: Repository) -> None:
    entry = repository.resolve(str(SCRIPTED), DEFAULTS)
    assert (entry.name, entry.served_name) == ("scripted", "scripted")
    assert (repository.folders[1] / "scripted" / "1" / "model.py").is_file()


def test_a_weights_folder(repository: Repository, tmp_path: Path) -> None:
    folder = weights(tmp_path / "My model")
    entry = repository.resolve(str(folder), DEFAULTS)
    assert (entry.name, entry.served_name) == ("My--model", "My model")
    assert parameter(entry.config, "model") == str(folder)
    made = repository.folders[1] / entry.name
    assert {p.name for p in made.iterdir()} == {"1", "config.pbtxt"}
    assert repository.resolve(str(folder), DEFAULTS) == entry


def test_a_hub_id(repository: Repository) -> None:
    entry = repository.resolve("Qwen/Qwen2.5-3B", DEFAULTS)
    assert (entry.name, entry.served_name) == ("Qwen--Qwen2.5-3B", "Qwen/Qwen2.5-3B")
    assert parameter(entry.config, "model") == "Qwen/Qwen2.5-3B"


@pytest.mark.parametrize("model", ["nothing", "/nowhere", "a/b/c", "../.."])
def test_what_is_none_of_these(repository: Repository, model: str) -> None:
    with pytest.raises(ModelError, match="neither a model in the repository"):
        repository.resolve(model, DEFAULTS)


def test_a_name_is_taken_once(repository: Repository, tmp_path: Path) -> None:
    repository.resolve(str(weights(tmp_path / "a" / "model")), DEFAULTS)
    with pytest.raises(ModelError, match="is taken"):
        repository.resolve(str(weights(tmp_path / "b" / "model")), DEFAULTS)


def test_names_of_the_repository_s_own_models_are_taken(
    repository: Repository, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="`demo` is taken by a model of the repository"):
        repository.resolve(str(weights(tmp_path / "demo")), DEFAULTS)
    (tmp_path / "demo" / "config.pbtxt").write_text("")
    with pytest.raises(ModelError, match="`demo` is taken by a model of the repository"):
        repository.resolve(str(tmp_path / "demo"), DEFAULTS)


def test_what_the_user_has_set_wins_over_the_file(repository: Repository) -> None:
    """And what is merely a default does not: the demo's file says one thread."""
    assert parameter(repository.resolve("demo", DEFAULTS).config, "num_threads") == "1"
    set_ = PytorchSettings(num_threads=2, torch_dtype="bfloat16")
    entry = repository.resolve("demo", serving(pytorch=set_))
    assert parameter(entry.config, "num_threads") == "2"
    assert parameter(entry.config, "torch_dtype") == "bfloat16"
    assert "max_num_seqs" not in entry.config["parameters"]


def test_what_stands_in_front_is_set_for_the_model_that_clients_name(
    repository: Repository, tmp_path: Path
) -> None:
    settings = ServingSettings(stream_interval_ms=5, allow_control_tokens=True)
    entry = repository.resolve(str(decoder_model(tmp_path)), settings)
    assert parameter(entry.config, "stream_interval_ms") == "5"
    assert parameter(entry.config, "allow_control_tokens") == "true"
    assert "parameters" not in entry.configs["answers_decoder"]
    untouched = repository.resolve("demo", DEFAULTS).config["parameters"]
    assert not {"stream_interval_ms", "allow_control_tokens"} & untouched.keys()


def decoder_model(folder: Path) -> Path:
    """A model of two parts, as the converter writes them."""
    for name in ("answers", "answers_decoder"):
        (folder / name / "configs").mkdir(parents=True)
    (folder / "answers" / "config.pbtxt").write_text(
        'backend: "python" parameters { key: "decoder" value { string_value: "answers_decoder" } }'
    )
    decoder = folder / "answers_decoder"
    (decoder / "config.pbtxt").write_text('backend: "onnxruntime" max_batch_size: 8')
    (decoder / "configs" / "embedded.pbtxt").write_text('backend: "onnxruntime" max_batch_size: 4')
    return folder / "answers"


def test_what_a_model_calls_is_loaded_before_it(repository: Repository, tmp_path: Path) -> None:
    entry = repository.resolve(str(decoder_model(tmp_path)), DEFAULTS)
    assert list(entry.configs) == ["answers_decoder", "answers"]
    assert entry.configs["answers_decoder"]["max_batch_size"] == 8
    for name in entry.configs:
        assert (repository.folders[1] / name / "config.pbtxt").is_file()


def test_a_named_configuration_where_a_model_has_one(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    embedded = Installation(Path("tritonserver"), (), {}, config_name="embedded")
    repository = Repository(DEFAULT_REPOSITORY, tmp_path / "scratch", embedded.config_file)
    entry = repository.resolve(str(decoder_model(tmp_path)), DEFAULTS)
    assert entry.configs["answers_decoder"]["max_batch_size"] == 4


@pytest.fixture
def in_front(tmp_path: Path) -> Path:
    """The model of a decoder that the embedded server's stand-in would keep in place."""
    model = decoder_model(tmp_path)
    file = tmp_path / "answers_decoder" / "config.pbtxt"
    kv_cache = 'parameters { key: "kv_cache" value { string_value: "in_place" } }'
    file.write_text(f"{file.read_text()} {kv_cache} instance_group {{ kind: KIND_AUTO }}")
    return model


def test_a_decoder_of_the_stand_in_is_run_by_the_model_in_front(
    repository: Repository, in_front: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = serving(onnx=OnnxSettings(intra_op_num_threads=1))
    entry = repository.resolve(str(in_front), settings)
    assert list(entry.configs) == ["answers"]
    config = json.loads(parameter(entry.config, "decoder_config"))
    assert parameter(config, "intra_op_thread_count") == "1"
    assert not caplog.records
    gpu_or_cpu = OnnxSettings(providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert list(repository.resolve(str(in_front), serving(onnx=gpu_or_cpu)).configs) == ["answers"]
    assert "onnx.providers: answers runs on the CPU" in caplog.text


def test_a_decoder_that_needs_a_gpu_is_a_model_of_its_own(
    repository: Repository, in_front: Path
) -> None:
    settings = serving(onnx=OnnxSettings(providers=["CUDAExecutionProvider"]))
    assert list(repository.resolve(str(in_front), settings).configs) == [
        "answers_decoder",
        "answers",
    ]


def test_a_part_that_is_not_there(repository: Repository, tmp_path: Path) -> None:
    folder = decoder_model(tmp_path)
    (tmp_path / "answers_decoder" / "config.pbtxt").unlink()
    with pytest.raises(ModelError, match="names `answers_decoder` as its decoder"):
        repository.resolve(str(folder), DEFAULTS)


def test_the_model_for_the_backend_asked_for(tmp_path: Path) -> None:
    folder = decoder_model(tmp_path / "models")
    folder.rename(folder.with_name("answers_onnx"))
    repository = Repository(tmp_path / "models", tmp_path)
    onnx = ServingSettings(backend_type="onnx")
    assert repository.resolve("answers", onnx).name == "answers_onnx"
    with pytest.raises(ModelError, match="`answers`"):
        repository.resolve("answers", DEFAULTS)


def test_the_default_model_is_not_served_by_another_engine_than_was_asked_for(
    repository: Repository, tmp_path: Path
) -> None:
    folder = str(decoder_model(tmp_path))
    with pytest.raises(ModelError, match=r"`answers` runs on onnx, and .* asks for vllm"):
        repository.resolve(folder, ServingSettings(model=folder, backend_type="vllm"))
    for settings in (  # nobody has named an engine; it is the right one; it is a further model
        ServingSettings(model=folder),
        ServingSettings(model=folder, backend_type="onnx"),
        ServingSettings(model="demo", backend_type="vllm"),
    ):
        assert repository.resolve(folder, settings).name == "answers"


def test_the_weights_of_a_model_on_another_engine_are_taken_for_the_one_that_was_asked_for(
    tmp_path: Path,
) -> None:
    models, scratch = tmp_path / "models", tmp_path / "scratch"
    scratch.mkdir()
    shutil.copytree(DEFAULT_REPOSITORY / "demo", models / "demo")
    entry = Repository(models, scratch).resolve("demo", ServingSettings(backend_type="vllm"))
    assert (entry.name, entry.served_name) == ("demo_vllm", "demo_vllm")
    assert parameter(entry.config, "backend_type") == "vllm"
    assert parameter(entry.config, "model") == str(models / "demo" / "1" / "weights")
    assert entry.config["instance_group"] == [{"count": 1, "kind": "KIND_MODEL"}]


@pytest.mark.process
def test_weights_are_converted_for_the_onnx_backend(repository: Repository, tmp_path: Path) -> None:
    weights_folder = DEFAULT_REPOSITORY / "demo" / "1" / "weights"
    (tmp_path / "My model").symlink_to(weights_folder)
    onnx = OnnxSettings(max_model_len=128, max_num_seqs=2)
    settings = serving(backend_type="onnx", onnx=onnx)
    entry = repository.resolve(str(tmp_path / "My model"), settings)
    assert list(entry.configs) == ["My--model_decoder", "My--model"]
    assert entry.served_name == parameter(entry.config, "served_model_name") == "My model"
    assert parameter(entry.config, "context_length") == "128"
    assert entry.configs["My--model_decoder"]["max_batch_size"] == 2
    assert (repository.folders[1] / "My--model_decoder" / "1" / "model.onnx").is_file()


@pytest.mark.process
def test_weights_that_cannot_be_converted(repository: Repository, tmp_path: Path) -> None:
    onnx = ServingSettings(backend_type="onnx")
    with pytest.raises(ModelError, match="empty cannot be converted"):
        repository.resolve(str(weights(tmp_path / "empty")), onnx)
    assert list(repository.folders[1].iterdir()) == []


def test_onnx_settings_go_to_the_graph_alone(repository: Repository, tmp_path: Path) -> None:
    settings = serving(
        onnx=OnnxSettings(intra_op_num_threads=1), pytorch=PytorchSettings(num_threads=2)
    )
    entry = repository.resolve(str(decoder_model(tmp_path)), settings)
    assert parameter(entry.configs["answers_decoder"], "intra_op_thread_count") == "1"
    assert set(entry.config["parameters"]) == {"decoder"}


def test_a_provider_that_triton_does_not_know(repository: Repository, tmp_path: Path) -> None:
    settings = serving(onnx=OnnxSettings(providers=["XnnpackExecutionProvider"]))
    with pytest.raises(ModelError, match=r"serving\.onnx\.providers: XnnpackExecutionProvider"):
        repository.resolve(str(decoder_model(tmp_path)), settings)


def test_a_configuration_that_cannot_be_read(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.pbtxt").write_text("backend: ")
    with pytest.raises(ModelError, match=r"broken/config\.pbtxt cannot be read"):
        repository.resolve(str(tmp_path / "broken"), DEFAULTS)
