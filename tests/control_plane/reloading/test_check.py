"""`triad check` beside a server that runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from control_plane.cli import app
from control_plane.http.server import HttpServer, server_config
from tests.support.gateway import fake_client, until
from tests.support.reloadable import Reloadable, reloadable
from tests.support.server import free_port

pytestmark = pytest.mark.asyncio


async def check(file: Path, *arguments: str) -> Result:
    """Run the command in a thread: the server that it asks is in this event loop."""
    command = ["check", "--config", str(file), *arguments]
    return await asyncio.to_thread(CliRunner().invoke, app, command)


async def served(server: Reloadable, port: int) -> tuple[HttpServer, asyncio.Future[None]]:
    settings = server.gateway.state.services.settings
    config = server_config(server.gateway, settings)
    config.port, config.lifespan = port, "off"
    http = HttpServer(config, settings)
    ended = asyncio.ensure_future(http._serve())
    await until(lambda: http.started)
    return http, ended


async def test_differences_are_printed_with_what_they_need(tmp_path: Path) -> None:
    port = free_port()
    values: dict[str, Any] = {"caching": {"redis_url": "redis://:first@localhost"}}
    async with reloadable(tmp_path, fake_client(), **values) as server:
        http, ended = await served(server, port)
        address = ("--server", f"http://127.0.0.1:{port}")
        same = await check(server.file, *address)
        assert "runs with it" in same.stderr
        server.write(
            caching={"redis_url": "redis://:second@localhost", "ttl_seconds": 7}, workers=4
        )
        different = await check(server.file, *address)
        http.should_exit = True
        await ended
    assert (same.exit_code, different.exit_code) == (0, 0)
    assert set(different.stderr.splitlines()[1:]) == {
        "serving.workers: 1 -> 4 (needs a restart)",
        "serving.caching.ttl_seconds: 3600 -> 7 (a reload applies it)",
        "serving.caching.redis_url: (a secret) -> (a secret) (a reload applies it)",
    }


async def test_a_server_that_wants_a_token_is_said(tmp_path: Path) -> None:
    port = free_port()
    auth = {"enabled": True, "key_store": str(tmp_path / "keys.db")}
    async with reloadable(tmp_path, fake_client(), auth=auth) as server:
        http, ended = await served(server, port)
        address = ("--server", f"http://127.0.0.1:{port}")
        without = await check(server.file, *address)
        wrong = await check(server.file, *address, "--token", "wrong")
        http.should_exit = True
        await ended
    assert without.exit_code == wrong.exit_code == 0
    assert "does not show its settings: a token is needed" in without.stderr
    assert "does not show its settings: the token is not valid" in wrong.stderr


async def test_without_a_server_the_document_is_checked_all_the_same(tmp_path: Path) -> None:
    file, port = tmp_path / "triad.yaml", free_port()
    file.write_text(f"serving: {{port: {port}}}")
    done = await check(file)
    assert done.exit_code == 0
    valid, no_server = done.stderr.splitlines()
    assert valid == "the configuration is valid"
    assert no_server.startswith(f"no server runs at http://127.0.0.1:{port} ")


async def test_what_is_no_triad_is_said(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
        writer.close()

    file, port = tmp_path / "triad.yaml", free_port()
    file.write_text(f"serving: {{port: {port}}}")
    async with await asyncio.start_server(answer, "127.0.0.1", port):
        done = await check(file)
    assert done.exit_code == 0
    assert "is not this release of Triad" in done.stderr
