"""One Triton with an encoder and a classifier, each exported and with its text front."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from converters.common.options import ExportOptions
from converters.encoder.export import export_encoder
from tests.support.encoders import save_encoder
from tests.support.triton import Triton, triton_server

LABELS = {0: "calm", 1: "glad", 2: "sad"}


@dataclass(frozen=True)
class Sources:
    """Folders of the models that were exported."""

    embedder: Path
    classifier: Path


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    return Sources(
        save_encoder("bert", folder / "embedder"),
        save_encoder("bert", folder / "classifier", id2label=LABELS),
    )


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory, sources: Sources) -> Iterator[Triton]:
    repository = tmp_path_factory.mktemp("repository")
    for source in (sources.embedder, sources.classifier):
        options = ExportOptions(str(source), repository, kind="encoder", max_num_seqs=4)
        export_encoder(options, lambda _: None)
    with triton_server(tmp_path_factory.mktemp("triton"), repository, "*") as server:
        yield server


@pytest.fixture
def client(triton: Triton) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        yield client
