"""Secrets, and who callers are, stand in no log, no metric and no file of limits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.auth.keys import KeyStore, Policy
from tests.support.gateway import gateway
from tests.support.issuer import AUDIENCE, Issuer, running_issuer
from tests.support.token_server import token_server

NAME = "ann@example.com"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        running.add_key("first")
        yield running


@pytest.mark.parametrize("kind", ["key", "jwt", "introspection"])
async def test_nobody_can_be_read_anywhere(
    kind: str, issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = KeyStore(tmp_path / "keys.db")
    key = store.create(NAME, ["llm:generate"], policy=Policy(tokens_per_day=10))
    store.close()
    auth: dict[str, Any] = {"enabled": True, "key_store": str(tmp_path / "keys.db")}
    secret = key
    with token_server(
        {"opaque_secret": {"active": True, "scope": "llm:generate", "sub": NAME}}
    ) as t:
        if kind == "jwt":
            auth |= {"auth_type": "jwt", "issuer": issuer.url, "audience": AUDIENCE}
            secret = issuer.token("first", sub=NAME, email=NAME)
        elif kind == "introspection":
            auth |= {"token_validation_url": t.url}
            secret = "opaque_secret"
        limits = {
            "enabled": True,
            "requests_per_minute": 1,
            "burst_allowance": 5,
            "file": str(tmp_path / "limits.db"),
        }
        with caplog.at_level(logging.DEBUG, "control_plane"):
            async with gateway(auth=auth, rate_limiting=limits, debug=True) as http:
                statuses = set()
                for token in [secret] * 8 + [secret[:-9] + "a" * 9, f"{secret}x"]:
                    headers = {"Authorization": f"Bearer {token}"}
                    body = {"prompt": "a", "max_tokens": 4}
                    response = await http.post("/generate", json=body, headers=headers)
                    statuses.add(response.status_code)
                assert statuses == {200, 401, 429}
                metrics = (await http.get("/metrics")).text
    logs = "\n".join(record.getMessage() for record in caplog.records)
    assert "demo" in logs
    kept = _read(tmp_path, "limits.db*")
    assert b"tokens" in kept
    parts = [NAME, "ann@", secret, secret.rpartition(".")[2]]
    if kind == "key":
        parts = [secret, secret.removeprefix("triad_"), NAME]
    for part in parts:
        assert part not in logs
        assert part not in metrics
        assert part.encode() not in kept


def _read(folder: Path, pattern: str) -> bytes:
    return b"".join(file.read_bytes() for file in folder.glob(pattern))
