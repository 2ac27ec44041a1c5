"""Budgets of keys, as their owners meet them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from control_plane.auth.keys import KeyStore, Policy
from tests.support.gateway import gateway

COST = 6
"""The tokens of a request to the fake model: three of the prompt, and three of the answer."""


@pytest.mark.parametrize("has_limits", [False, True])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_a_key_uses_its_budget_up(tmp_path: Path, path: str, has_limits: bool) -> None:
    store = KeyStore(tmp_path / "keys.db")
    key = store.create("one", ["llm:generate"], policy=Policy(tokens_per_day=2 * COST))
    other = store.create("other", ["llm:generate"])
    store.close()
    settings: dict[str, Any] = {
        "auth": {"enabled": True, "key_store": str(tmp_path / "keys.db")},
        "rate_limiting": {"enabled": has_limits, "file": str(tmp_path / "limits.db")},
    }
    body = {"prompt": "a", "max_tokens": 4}
    for expected in ([200, 200, 429], [429, 429, 429]):  # the second is after a restart
        async with gateway(**settings) as http:
            headers = {"Authorization": f"Bearer {key}"}
            answers = [await http.post(path, json=body, headers=headers) for _ in range(3)]
            used_up = answers[-1]
            error = used_up.json()["error"]
            assert used_up.status_code == 429
            assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
            assert "budget of 12 tokens a day is used up" in error["message"]
            assert 0 < int(used_up.headers["Retry-After"]) <= 24 * 60 * 60
            assert ("x-ratelimit-limit-tokens" in used_up.headers) is has_limits
            headers = {"Authorization": f"Bearer {other}"}
            assert (await http.post(path, json=body, headers=headers)).status_code == 200
        assert [answer.status_code for answer in answers] == expected


async def test_keys_without_budgets_make_no_file(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.db")
    key = store.create("one", ["llm:generate"])
    store.close()
    settings: dict[str, Any] = {
        "auth": {"enabled": True, "key_store": str(tmp_path / "keys.db")},
        "rate_limiting": {"file": str(tmp_path / "limits.db")},
    }
    async with gateway(**settings) as http:
        headers = {"Authorization": f"Bearer {key}"}
        response = await http.post("/generate", json={"prompt": "a"}, headers=headers)
        assert response.status_code == 200
    assert not (tmp_path / "limits.db").exists()
