"""What is wrong with a document is said in one line for each problem."""

from pathlib import Path

import pytest

from control_plane.engines import ENGINE_NAMES
from control_plane.settings import Settings, SettingsError, load_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def problems(file: Path, text: str) -> tuple[str, ...]:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as raised:
        load_settings(file, {})
    return raised.value.problems


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "serving:", "serving: {vllm: }"])
def test_what_is_not_given_has_its_default(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert load_settings(file, {}) == load_settings(None, {}) == Settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("servng: {}", "servng: unknown key; did you mean `serving`?"),
        ("serving: {prot: 1}", "serving.prot: unknown key; did you mean `port`?"),
        (
            "serving: {vllm: {max_num_seq: 4}}",
            "serving.vllm.max_num_seq: unknown key; did you mean `max_num_seqs`?",
        ),
        (
            "serving: {health_check: {colour: 4}}",
            "serving.health_check.colour: unknown key; "
            "known here: enabled, interval, timeout, retries",
        ),
        ("{8: 1}", "8: unknown key; known here: serving"),
        (
            "serving: {load_balancing: {instances: [{host: a}, {host: b, prt: 1}]}}",
            "serving.load_balancing.instances[1].prt: unknown key; did you mean `port`?",
        ),
        (
            "serving: {load_balancing: {instances: [{}]}}",
            "serving.load_balancing.instances[0].host: missing; must be text that is not empty",
        ),
        ("serving: {port: 1, port: 2}", "serving.port: given twice, in lines 1 and 1"),
        ("serving: {}\nserving: {}", "serving: given twice, in lines 1 and 2"),
    ],
)
def test_wrong_keys(file: Path, text: str, expected: str) -> None:
    assert problems(file, text) == (expected,)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("port", "0", "an integer from 1 to 65535, not 0"),
        ("port", "65536", "an integer from 1 to 65535, not 65536"),
        ("port", "true", "an integer from 1 to 65535, not true"),
        ("port", '"8000"', 'an integer from 1 to 65535, not "8000"'),
        ("port", "", "an integer from 1 to 65535, not null"),
        ("workers", "0", "an integer of at least 1, not 0"),
        ("debug", "maybe", 'true or false, not "maybe"'),
        ("host", "8", "text that is not empty, not 8"),
        (
            "trusted_proxies[1]",
            "10.0.0.300",
            'an address or a network, such as 10.0.0.0/8 or ::1, not "10.0.0.300"',
        ),
        ("http.max_connections", "0", "an integer of at least 1, not 0"),
        ("http.header_timeout", "0", "a number above 0, not 0"),
        ("model", '""', 'text that is not empty, not ""'),
        ("models", "demo", 'a list, not "demo"'),
        ("backend_type", "tgi", f'one of {", ".join(ENGINE_NAMES)}, not "tgi"'),
        ("request_timeout", "0", "a number above 0, not 0"),
        ("request_timeout", ".inf", "a number above 0, not Infinity"),
        ("request_timeout", "2024-01-02", 'a number above 0, not "2024-01-02"'),
        ("shutdown_timeout", "-1", "a number of at least 0, not -1"),
        ("vllm", "8", "a mapping"),
        ("vllm", "[8]", "a mapping, not a list"),
        ("vllm.gpu_memory_utilization", "0", "a number above 0 and at most 1, not 0"),
        ("vllm.gpu_memory_utilization", "1.1", "a number above 0 and at most 1, not 1.1"),
        ("pytorch.device", "gpu", 'auto, cpu, cuda or cuda:N, not "gpu"'),
        ("pytorch.max_model_len", "0", "an integer of at least 1, or null, not 0"),
        ("pytorch.cuda_graphs", "1", "one of auto, true, false, not 1"),
        ("pytorch.optimization_level", "O4", 'one of auto, O0, O1, O2, O3, not "O4"'),
        ("onnx.optimization_level", "O1", 'one of all, extended, basic, disabled, not "O1"'),
        ("onnx.providers", "[]", "a list that is not empty, not []"),
        ("caching.cache_type", "disc", 'one of redis, memory, disk, not "disc"'),
        (
            "caching.cache_size",
            "1XB",
            'a size in bytes above 0, such as 4096, 1GB or 512MiB, not "1XB"',
        ),
        ("max_body_size", "0", "a size in bytes above 0, such as 4096, 1GB or 512MiB, not 0"),
        (
            "load_balancing.strategy",
            "random",
            'one of round_robin, least_connections, weighted, not "random"',
        ),
        ("auth.auth_type", "basic", 'one of bearer_token, api_key, jwt, not "basic"'),
        (
            "validation.allowed_characters",
            "latin",
            'one of unicode, ascii, printable, not "latin"',
        ),
        ("monitoring.metrics_endpoint", "m", 'a path that starts with /, not "m"'),
        ("monitoring.alert_thresholds.error_rate", "2", "a number from 0 to 1, not 2"),
    ],
)
def test_wrong_values(file: Path, key: str, value: str, accepted: str) -> None:
    *sections, name = ["serving", *key.split(".")]
    text = "".join(f"{section}: {{" for section in sections)
    if name.endswith("[1]"):
        name, value = name.removesuffix("[1]"), f"[10.0.0.0/8, {value}]"
    document = f"{text}{name}: {value}{'}' * len(sections)}"
    assert problems(file, document) == (f"serving.{key}: must be {accepted}",)


@pytest.mark.parametrize(
    "endpoint", ["a", "a:0", "a:65536", "::1:8001", "http://a:1", ":1", "unix:a"]
)
def test_wrong_endpoints(file: Path, endpoint: str) -> None:
    assert problems(file, f"serving: {{triton: {{endpoints: ['{endpoint}']}}}}") == (
        f"serving.triton.endpoints[0]: must be host:port with a port from 1 to 65535, "
        f'or unix:/path, not "{endpoint}"',
    )


@pytest.mark.parametrize(
    "endpoint", ["triton:8001", "127.0.0.1:1", "[::1]:65535", "unix:/run/triton"]
)
def test_endpoints(file: Path, endpoint: str) -> None:
    file.write_text(f"serving: {{triton: {{endpoints: ['{endpoint}']}}}}", encoding="utf-8")
    assert load_settings(file, {}).serving.triton.endpoints == [endpoint]


def test_all_problems_are_listed_at_once(file: Path) -> None:
    found = problems(file, "serving: {prt: 1, port: 0, port: 1, workers: 0, auth: {enbled: 1}}")
    assert [line.partition(":")[0] for line in found] == [
        "serving.port",
        "serving.workers",
        "serving.auth.enbled",
        "serving.prt",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "must be a mapping with the key `serving`"),
        ("serving: [", "not valid YAML: line 1, column 11: expected the node content"),
        ("a: 1\n b: 2", "not valid YAML: line 2, column 3: mapping values are not allowed here"),
        ("{}\n---\n{}", "not valid YAML: line 2, column 1: but found another document"),
        ("a: 2024-13-45", "not valid YAML: a value is out of range"),
        ("a: !!bool x", "not valid YAML: a value is out of range"),
        ("a: \0", "not valid YAML: character 3: special characters are not allowed"),
        ("[" * 2000, "not valid YAML: nested too deeply"),
    ],
)
def test_documents_that_are_not_a_mapping(file: Path, text: str, expected: str) -> None:
    (line,) = problems(file, text)
    assert line.startswith(f"{file}: {expected}")


def test_files_that_cannot_be_read(file: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file or directory"):
        load_settings(file, {})
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings(file.parent, {})
    file.write_bytes(b"serving: \xff")
    with pytest.raises(SettingsError, match="not UTF-8: byte 9 is not part of a character"):
        load_settings(file, {})


def test_a_long_value_is_cut(file: Path) -> None:
    (line,) = problems(file, f"serving: {{port: {'x' * 1000}}}")
    assert line.endswith("x...") and line.count("x") < 200


@pytest.mark.parametrize(
    "text",
    [
        "serving: {triton: {model_control_value: [hunter2]}}",
        "serving: {triton: {model_control_valu: hunter2}}",
        "serving: {triton: hunter2}",
        "serving: {triton: {model_control_value: *hunter2}}",
        "serving: {triton: {model_control_value: !hunter2 a}}",
        "hunter2",
    ],
)
def test_secrets_are_not_repeated(file: Path, text: str) -> None:
    assert "hunter2" not in "".join(problems(file, text))


def test_anchors_may_be_merged_and_may_stand_inside_themselves(file: Path) -> None:
    file.write_text("serving: {port: 1, <<: {port: 2, workers: 3}}", encoding="utf-8")
    assert load_settings(file, {}).serving.model_dump(exclude_unset=True) == {
        "port": 1,
        "workers": 3,
    }
    assert problems(file, "serving: {models: &a [*a]}") == (
        "serving.models[0]: must be text that is not empty, not a list",
    )
