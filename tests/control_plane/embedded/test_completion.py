"""Configurations that are completed here, and by Triton where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import encoder, tensors
from control_plane.embedded.launch import EmbeddedTriton
from control_plane.settings import ServingSettings
from tests.support.server import SCRIPTED, free_port

pytestmark = pytest.mark.process

SILENT = """
class TritonPythonModel:
    def execute(self, requests):
        raise NotImplementedError
"""
ASKED = f"""
{SILENT}
    @staticmethod
    def auto_complete_config(config):
        config.add_input({{"name": "own", "data_type": "TYPE_INT32", "dims": [1]}})
        config.add_output({{"name": "result", "data_type": "TYPE_INT32", "dims": [1]}})
        config.set_max_batch_size(3)
        return config
"""


def write(folder: Path, program: str, more: str = "") -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(program)
    (folder / "config.pbtxt").write_text(f'backend: "python" {more}')
    return folder


def parameters(**values: str) -> str:
    return " ".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in values.items()
    )


def loaded(*models: Path) -> dict[str, ModelConfig]:
    """Return the configurations that Triton has of models."""
    port = free_port()
    settings = ServingSettings.model_validate(
        {
            "model": str(models[0]),
            "models": [str(model) for model in models[1:]],
            "triton": {"grpc_port": port},
        }
    )
    server = EmbeddedTriton(settings)
    server.start()
    try:
        with grpcclient.InferenceServerClient(f"127.0.0.1:{port}") as client:
            return {model.name: client.get_model_config(model.name).config for model in models}
    finally:
        server.stop()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelConfig]:
    """The configurations of a server with a model that has to be asked."""
    own = write(tmp_path_factory.mktemp("models") / "own", ASKED)
    return loaded(SCRIPTED, own)


def test_a_user_s_model_is_asked(asked: dict[str, ModelConfig]) -> None:
    own = asked["own"]
    assert ([t.name for t in own.input], [t.name for t in own.output]) == (["own"], ["result"])
    assert own.max_batch_size == 3


def test_a_configuration_by_its_contract_is_what_the_model_says(
    asked: dict[str, ModelConfig], tmp_path: Path
) -> None:
    said = parameters(contract="text_encoder", embedding_dimension="7")
    configs = loaded(SCRIPTED, write(tmp_path / "vectors", SILENT, said))
    assert text_format.MessageToString(configs["scripted"]) == text_format.MessageToString(
        asked["scripted"]
    )
    assert [tensor.name for tensor in configs["scripted"].input] == [
        spec.name for spec in tensors.INPUTS
    ]
    assert [t.name for t in configs["vectors"].input] == [spec.name for spec in encoder.INPUTS]
    assert list(configs["vectors"].output[0].dims) == [-1, 7]
