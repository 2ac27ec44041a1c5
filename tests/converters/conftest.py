"""Tiny models on disk, and exports of them that several tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.support.decoders import save_decoder

Models = Callable[[str], Path]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Operations as small as these take many times longer on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The folder of a tiny model of a family."""
    root = tmp_path_factory.mktemp("models")
    return cache(lambda family: save_decoder(family, root / family))
