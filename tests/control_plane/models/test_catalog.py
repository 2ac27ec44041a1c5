"""What the gateway makes of a real Triton that does not answer for a while."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from control_plane.models.catalog import Catalog, Model
from control_plane.triton.http2.client import Http2Client
from tests.support.server import SCRIPTED
from tests.support.triton import triton_server

pytestmark = pytest.mark.process


async def test_a_check_without_an_answer_is_no_death(tmp_path: Path) -> None:
    """Neither of the server's list of models, which one answer for all depends on."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "scripted").symlink_to(SCRIPTED)
    deaths: list[Model] = []
    with triton_server(tmp_path, repository, "scripted", loses_a_model=True) as triton:
        client = Http2Client(triton.grpc)
        catalog = Catalog(client, "scripted", timeout=1.0, on_unhealthy=deaths.append)
        await catalog.refresh()
        model = catalog.ready(None)

        triton.process.send_signal(signal.SIGSTOP)
        for _ in range(2):
            await catalog.refresh()
            assert (model.ready, model.alive) == (True, True)
        assert not deaths
        await catalog.refresh()
        assert (model.ready, model.alive) == (False, False)
        assert deaths == [model]

        triton.process.send_signal(signal.SIGCONT)
        await catalog.refresh()
        assert (model.ready, model.alive) == (True, True)
        await client.close()
