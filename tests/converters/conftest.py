"""Tiny models on disk, and exports of them that several tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from converters.common.corpus.topics import Topic
from converters.common.options import ExportOptions
from converters.common.report import Report
from converters.decoder import builder
from converters.decoder.export import export_decoder
from tests.support import forked_builder
from tests.support.decoders import CONTEXT, save_decoder

Models = Callable[[str], Path]
Exports = Callable[[str], tuple[Path, Report]]

SPECIFICATION_PROMPTS = (
    "What is machine learning?",
    "What is the capital of France?",
    "Explain quantum computing",
    "What is quantum computing?",
    "What is artificial intelligence?",
    "Explain artificial intelligence",
    "Write a story about a robot",
    "Tell me a joke",
)
"""The prompts that the demo model has to answer."""


def answer_to(topics: list[Topic], prompt: str) -> str:
    """Return the answer of the topic with this phrasing."""
    return next(topic.answer for topic in topics if prompt in topic.trained)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread: operations as small as these take many times longer on several."""
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
    """Return a function from a family to the folder of a tiny model of it."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda family: save_decoder(family, root / family))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny: Models) -> Exports:
    """Return a function from a family to its export in float32: the repository and the report."""
    root = tmp_path_factory.mktemp("exports")

    def export(family: str) -> tuple[Path, Report]:
        options = ExportOptions(str(tiny(family)), root / family, max_context=CONTEXT)
        return options.output, export_decoder(options, lambda stage: None)

    return cache(export)
