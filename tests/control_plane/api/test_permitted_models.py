"""Keys that name the models that they may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from control_plane.auth.keys import KeyStore, Policy
from tests.support.gateway import fake_client, gateway

MESSAGES = [{"role": "user", "content": "Hi"}]


async def test_a_key_may_use_its_own_models_alone(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.db")
    policies = {"all": Policy(), "one": Policy(["demo"]), "other": Policy(["other", "encoder"])}
    secrets = {
        name: store.create(name, ["llm:generate"], policy=policy)
        for name, policy in policies.items()
    }
    store.close()
    client = fake_client("demo", "other")
    client.add_model("encoder", type="embedding")
    auth = {"enabled": True, "key_store": str(tmp_path / "keys.db")}
    async with gateway(client, auth=auth) as http:

        async def post(caller: str, path: str, **body: Any) -> Any:  # noqa: ANN401
            headers = {"Authorization": f"Bearer {secrets[caller]}"}
            return await http.post(path, json=body, headers=headers)

        async def get(caller: str, path: str) -> Any:  # noqa: ANN401
            headers = {"Authorization": f"Bearer {secrets[caller]}"}
            return (await http.get(path, headers=headers)).json()

        for path, body in (
            ("/generate", {"prompt": "a"}),
            ("/v1/completions", {"prompt": "a"}),
            ("/v1/chat/completions", {"messages": MESSAGES}),
            ("/tokenize", {"prompt": "a"}),
            ("/attributions", {"prompt": "a"}),
        ):
            refused = await post("one", path, model="other", **body)
            assert refused.status_code == 404, path
            assert "`other` does not exist; models: demo" in refused.json()["error"]["message"]
        assert (await post("one", "/generate", prompt="a")).status_code == 200
        assert (await post("all", "/generate", prompt="a", model="other")).status_code == 200
        # The default model is not among its own.
        assert (await post("other", "/generate", prompt="a")).status_code == 404
        assert (await post("other", "/generate", prompt="a", model="other")).status_code == 200
        refused = await post("one", "/v1/embeddings", input="a", model="encoder")
        assert refused.status_code == 404

        listed = {name: (await get(name, "/models"))["models"] for name in secrets}
        assert {name: [m["name"] for m in models] for name, models in listed.items()} == {
            "all": ["demo", "other", "encoder"],
            "one": ["demo"],
            "other": ["other", "encoder"],
        }
        assert [m["id"] for m in (await get("one", "/v1/models"))["data"]] == ["demo"]
        assert "error" in await get("one", "/v1/models/other")
        assert (await get("other", "/stats"))["is_ready"]
