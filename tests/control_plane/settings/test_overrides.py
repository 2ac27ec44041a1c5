"""Environment variables override the document and are checked as it is."""

from pathlib import Path
from typing import Any

import pytest

from control_plane.settings import SettingsError, load_settings


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("PORT", "9000", {"port": 9000}),
        ("DEBUG", "true", {"debug": True}),
        ("MODELS", '["a", b]', {"models": ["a", "b"]}),
        ("MAX_BODY_SIZE", "1MiB", {"max_body_size": 2**20}),
        ("VLLM__MAX_NUM_SEQS", "8", {"vllm": {"max_num_seqs": 8}}),
        ("VLLM", "{max_num_seqs: 8}", {"vllm": {"max_num_seqs": 8}}),
        ("PYTORCH__MAX_MODEL_LEN", "null", {"pytorch": {"max_model_len": None}}),
        ("MODEL", "123", {"model": "123"}),
        ("MODEL", "[a", {"model": "[a"}),
        ("MODEL", '"quoted"', {"model": "quoted"}),
        (
            "LOAD_BALANCING__INSTANCES",
            "[{host: a, port: 1}]",
            {"load_balancing": {"instances": [{"host": "a", "port": 1}]}},
        ),
    ],
)
def test_values(variable: str, text: str, expected: dict[str, Any]) -> None:
    settings = load_settings(None, {f"TRIAD_SERVING__{variable}": text, "TRIAD_OTHER": "1"})
    assert settings.serving.model_dump(exclude_unset=True) == expected


def test_a_secret_is_taken_as_it_is() -> None:
    secret = "*a: #'"
    variable = "TRIAD_SERVING__TRITON__MODEL_CONTROL_VALUE"
    value = load_settings(None, {variable: secret}).serving.triton.model_control_value
    assert value is not None and value.get_secret_value() == secret
    assert load_settings(None, {variable: ""}).serving.triton.model_control_value is None


def test_a_variable_wins_over_the_file_and_a_key_over_its_section(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "serving: {port: 1, workers: 2, vllm: {max_num_seqs: 1, max_model_len: 64}, onnx: }"
    )
    environ = {
        "TRIAD_SERVING__VLLM__MAX_NUM_SEQS": "8",
        "TRIAD_SERVING__PORT": "3",
        "TRIAD_SERVING__ONNX__INTRA_OP_NUM_THREADS": "5",
        "TRIAD_SERVING__PYTORCH__NUM_THREADS": "2",
        "TRIAD_SERVING__PYTORCH": "{num_threads: 1, max_num_seqs: 4}",
    }
    assert load_settings(file, environ).serving.model_dump(exclude_unset=True) == {
        "port": 3,
        "workers": 2,
        "vllm": {"max_num_seqs": 8, "max_model_len": 64},
        "onnx": {"intra_op_num_threads": 5},
        "pytorch": {"num_threads": 2, "max_num_seqs": 4},
    }


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("PROT", "1", "serving.prot: unknown key; did you mean `port`?"),
        ("VLLM__MAX_NUM_SEQ", "1", "serving.vllm.max_num_seq: unknown key; did you mean"),
        ("PORT__X", "1", "serving.port.x: unknown key; `serving.port` has no keys below it"),
        ("", "1", "serving.: unknown key; known here: backend_type"),
        ("PORT", "0", "serving.port: must be an integer from 1 to 65535, not 0"),
        ("PORT", "[", "serving.port: not valid YAML: line 1, column 2: expected the node content"),
        ("VLLM", "{max_num_seqs: 0}", "serving.vllm.max_num_seqs: must be an integer"),
    ],
)
def test_a_problem_names_the_variable(variable: str, text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(None, {f"TRIAD_SERVING__{variable}": text})
    (line,) = raised.value.problems
    assert line.startswith(expected)
    assert line.endswith(f"(set by TRIAD_SERVING__{variable})")


def test_problems_of_the_file_and_of_variables_are_listed_together(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("serving: {vllm: 3, workers: 0}")
    environ = {"TRIAD_SERVING__VLLM__MAX_NUM_SEQS": "8", "TRIAD_SERVING__PROT": "1"}
    with pytest.raises(SettingsError) as raised:
        load_settings(file, environ)
    assert raised.value.problems == (
        "serving.prot: unknown key; did you mean `port`? (set by TRIAD_SERVING__PROT)",
        "serving.workers: must be an integer of at least 1, not 0",
        "serving.vllm: must be a mapping",
    )
