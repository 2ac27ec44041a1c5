"""Tensors are named in `backends.contract.names`, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import backends
import control_plane
from backends.contract import encoder, names, tensors

ROOT = Path(backends.__file__).parents[1]
SPECS = (
    *tensors.INPUTS,
    *tensors.OUTPUTS,
    *encoder.INPUTS,
    *(encoder.NUM_INPUT_TOKENS, encoder.TEXT_OUTPUT),
    *(encoder.EMBEDDING, encoder.LABEL, encoder.SCORE),
)
TENSORS = {spec.name for spec in SPECS}

OF_OPENAI = {
    *("messages", "tools", "stream", "logprobs", "prompt_logprobs", "finish_reason", "embedding"),
    *("token_ids", "prompt_token_ids", "return_token_ids", "add_special_tokens", "text_offsets"),
    "priority",
}
OTHER_MEANINGS = {
    "backends/encoder": {"input_ids", "score"},  # of a row and of graphs; a parameter of a model
    "backends/encoder/heads.py": {"embedding"},  # a type of model
    "backends/guidance/calls.py": {"tools"},  # a key of `guided`
    "backends/onnx": {"input_ids"},  # an input of graphs, which transformers named
    "backends/onnxruntime_shim": {"input_ids"},
    "backends/pytorch/encoder.py": {"input_ids"},
    "backends/serving/attribution.py": {"target"},  # a key of the JSON that answers
    "backends/serving/reading.py": {"token_ids", "text_offsets"},
    "backends/text/chat_format.py": {"tools"},  # a variable of chat templates
    "backends/text/chat_template.py": {"messages"},  # so too
    "backends/text/tokenizer.py": {"messages", "input_ids"},  # so too; what transformers returns
    "backends/vllm/arguments.py": {"priority"},  # a scheduling policy of vLLM's
    "control_plane/api": OF_OPENAI,  # fields of OpenAI's API, and of vLLM's
    "control_plane/api/admin.py": {"caller"},  # a key of a request's state
    "control_plane/api/attributions.py": {"target"},  # a field of ours
    "control_plane/auth": {"caller", "priority"},  # so too; a column of the keys
    "control_plane/middleware/authentication.py": {"caller"},
    "control_plane/triton/codec.py": {"token_ids", "text_offsets"},  # keys of JSON
    "control_plane/models/catalog.py": {"embedding"},  # a type of model
    "control_plane/python_api/vllm_server.py": {"stream"},  # a field of `VLLMRequest`
    "control_plane/validation/texts.py": {"messages", "tools"},  # fields of our API
}
"""Where words stand for something else than a tensor."""


def spelled(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and node.value in TENSORS:
            yield str(node.value), node.lineno


@pytest.mark.parametrize("package", [backends, control_plane])
def test_no_tensor_is_named_by_a_literal(package: object) -> None:
    folder = Path(str(package.__file__)).parent  # type: ignore[attr-defined]
    found = []
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("backends/contract/"):
            continue
        other = {w for at, words in OTHER_MEANINGS.items() if name.startswith(at) for w in words}
        found += [f"{name}:{line}: {word}" for word, line in spelled(path) if word not in other]
    assert found == []


def test_every_name_is_a_tensor() -> None:
    constants = {value for key, value in vars(names).items() if key.isupper()}
    assert constants | {names.return_flag(spec.name) for spec in tensors.OUTPUTS[1:]} == TENSORS
