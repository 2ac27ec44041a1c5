"""`caching.salt_by_caller`: the salts of requests that have none."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.caller_hash import caller_hash
from control_plane.errors import InvalidRequest
from control_plane.generation.result import collect
from control_plane.inference.requests import Generate
from tests.control_plane.generation.test_service import request, services
from tests.support.gateway import fake_client, gateway, sent

KEY = "k" * 16
GREEDY = {"max_tokens": 5, "temperature": 0}


async def salts(*requests: dict[str, Any], **values: Any) -> list[str | None]:  # noqa: ANN401
    """Return the salts that the model gets."""
    client = fake_client()
    async with services(client, **values) as opened:
        for one in requests:
            asked = request(**{"sampling": GREEDY} | one)
            await collect(await opened.generation.start(asked))
    return [r.sampling.get("cache_salt") for r in sent(client) if isinstance(r, Generate)]


async def test_each_caller_has_its_own_and_clients_may_choose() -> None:
    chosen = {"sampling": GREEDY | {"cache_salt": "team"}}
    asked: list[dict[str, Any]] = [{"caller": "ann"}, {"caller": "bob"}, chosen]
    expected = [f"caller:{caller_hash(caller, KEY)}" for caller in ("ann", "bob")]
    values = {"caching": {"salt_by_caller": True}, "caller_hash_key": KEY}
    assert await salts(*asked, **values) == [*expected, "team"]


async def test_there_are_none_by_default() -> None:
    assert await salts({}) == [None]


async def test_salts_of_callers_do_not_keep_apart_what_is_shared() -> None:
    caching = {"enabled": True, "cache_type": "memory", "shared": True, "salt_by_caller": True}
    assert len(await salts({"caller": "ann"}, {"caller": "bob"}, caching=caching)) == 1


async def test_another_caller_s_salt_cannot_be_chosen() -> None:
    async with services(fake_client(), caching={"salt_by_caller": True}) as opened:
        stolen = {"cache_salt": f"caller:{caller_hash('bob')}"}
        with pytest.raises(InvalidRequest, match="cache_salt: must not begin"):
            await opened.generation.start(request(sampling=GREEDY | stolen))
        assert not opened.generation.running


async def test_the_error_names_the_field() -> None:
    async with gateway(caching={"salt_by_caller": True}) as http:
        body = {"model": "demo", "prompt": "Hi", "cache_salt": "caller:0"}
        response = await http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "cache_salt"
