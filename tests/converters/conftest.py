"""Tiny models on disk, and exports of them that several tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from converters.decoder import builder
from converters.decoder.export import export_decoder
from converters.options import ExportOptions
from converters.report import Report
from tests.support import forked_builder
from tests.support.decoders import CONTEXT, save_decoder

Models = Callable[[str], Path]
Exports = Callable[[str], tuple[Path, Report]]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Operations as small as these take many times longer on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def quick_builder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the model builder, except for a test with the mark ``process``."""
    if request.node.get_closest_marker("process") is None:
        monkeypatch.setattr(builder, "subprocess", forked_builder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The folder of a tiny model of a family."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda family: save_decoder(family, root / family))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny: Models) -> Exports:
    """The repository, of its own, with a family's export in float32, and the export's report."""
    root = tmp_path_factory.mktemp("exports")

    def export(family: str) -> tuple[Path, Report]:
        options = ExportOptions(str(tiny(family)), root / family, max_context=CONTEXT)
        return options.output, export_decoder(options, lambda stage: None)

    return cache(export)
