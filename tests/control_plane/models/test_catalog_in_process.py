"""The catalog of one server's models, with a model client in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from control_plane.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    ProtocolRestricted,
    TriadError,
    Unavailable,
)
from control_plane.inference.fake import FakeModelClient
from control_plane.models.catalog import Catalog, Model
from control_plane.models.processes import ModelProcesses
from tests.support.gateway import fake_client, sent, until


class Server(FakeModelClient):
    """A server whose list of models may fail, and that may keep some to itself."""

    index_error: TriadError | None = None

    async def repository_index(self, *, timeout: float) -> dict[str, bool]:
        if self.index_error is not None:
            raise self.index_error
        return await super().repository_index(timeout=timeout)

    async def model_parameters(self, name: str, *, timeout: float) -> Mapping[str, str] | None:
        if name not in self.models:
            raise ModelNotReady(f"`{name}` is not loaded")
        return await super().model_parameters(name, timeout=timeout)


def server(*names: str) -> Server:
    client = Server()
    for name in names or ("demo",):
        client.add_model(name)
    return client


def catalog(client: FakeModelClient, **values: Any) -> tuple[Catalog, list[Model]]:  # noqa: ANN401
    """Return a catalog, and the list of models that became unhealthy."""
    unhealthy: list[Model] = []
    defaults: dict[str, Any] = {"default_model": "demo", "timeout": 1.0}
    return Catalog(client, on_unhealthy=unhealthy.append, **(defaults | values)), unhealthy


async def test_a_model_is_known_once_it_has_described_itself() -> None:
    models, _ = catalog(server())
    with pytest.raises(ModelNotReady, match="the default model is not loaded yet"):
        models.ready(None)
    await models.refresh()
    model = models.ready(None)
    assert (model.name, model.backend, model.context_length) == ("demo", "fake", 1000)


async def test_a_model_has_the_name_of_its_configuration() -> None:
    client = server()
    client.add_model("other", configuration={"served_model_name": "Org/Other"})
    models, _ = catalog(client)
    await models.refresh()
    assert models.find("Org/Other") is models.find("other")
    assert models.find("other").served_name == "Org/Other"


async def test_models_come_and_go() -> None:
    client = server()
    models, unhealthy = catalog(client)
    await models.refresh()
    client.add_model("late")
    await models.refresh()
    assert models.ready("late").loaded
    del client.models["late"]
    await models.refresh()
    with pytest.raises(ModelNotFound, match="late"):
        models.find("late")
    assert not unhealthy


async def test_a_model_that_is_unloaded_is_unhealthy_and_may_come_back() -> None:
    client = server()
    models, unhealthy = catalog(client)
    await models.refresh()
    model = models.ready(None)
    client.models["demo"].ready = False
    for _ in range(2):
        await models.refresh()
    assert unhealthy == [model]  # once
    with pytest.raises(ModelNotReady, match="`demo` is not loaded"):
        models.ready(None)
    client.models["demo"].ready = True
    await models.refresh()
    assert models.ready(None) is model


async def test_models_that_are_not_loaded_are_served_only_where_they_are_expected() -> None:
    client = server("demo", "expected", "other")
    for name in ("expected", "other"):
        client.models[name].ready = False
    models, _ = catalog(client, names=["expected"])
    await models.refresh()
    with pytest.raises(ModelNotReady, match="is not loaded"):
        models.ready("expected")
    with pytest.raises(ModelNotFound):
        models.ready("other")


async def test_a_model_of_another_contract_is_left_out() -> None:
    client = server("demo", "plain")
    client.models["plain"].parameters = None
    models, _ = catalog(client)
    await models.refresh()
    assert [model.name for model in models] == ["demo"]


async def test_a_model_that_was_loaded_again_is_another_process() -> None:
    client = server()
    models, unhealthy = catalog(client)
    await models.refresh()
    client.add_model("demo", restarted_at="2026-01-01T00:00:00")
    await models.refresh()
    assert [model.name for model in unhealthy] == ["demo"]
    assert models.ready(None).facts.restarted_at == "2026-01-01T00:00:00"
    await models.refresh()
    assert len(unhealthy) == 1


@pytest.mark.parametrize("error", [ModelNotReady("its process has died"), EngineFailed("broke")])
async def test_a_model_that_fails_its_check_is_unhealthy(error: TriadError) -> None:
    client = server()
    models, unhealthy = catalog(client)
    await models.refresh()
    client.models["demo"].error = error
    await models.refresh()
    assert [model.problem for model in unhealthy] == [f"does not answer: {error}"]


async def test_an_error_has_to_come_as_often_as_the_settings_say() -> None:
    client = server()
    models, unhealthy = catalog(client, failures=3)
    await models.refresh()
    client.models["demo"].error = EngineFailed("broke")
    for expected in (0, 0, 1):
        await models.refresh()
        assert len(unhealthy) == expected


async def test_a_model_that_answers_others_but_no_checks_gets_no_new_requests() -> None:
    client = server()
    models, unhealthy = catalog(client)
    await models.refresh()
    client.models["demo"].error = DeadlineExceeded()
    for _ in range(3):
        await models.refresh()
    model = models.find(None)
    assert (model.ready, model.alive) == (False, True)
    assert not unhealthy
    client.models["demo"].error = None
    await models.refresh()
    assert models.ready(None) is model


async def test_a_server_that_cannot_be_reached_takes_its_models_with_it() -> None:
    client = server()
    models, unhealthy = catalog(client)
    await models.refresh()
    client.index_error = Unavailable("away")
    await models.refresh()
    assert [model.problem for model in unhealthy] == ["cannot be reached: away"]
    assert not models.find(None).loaded
    client.index_error = None
    await models.refresh()
    assert models.ready(None).loaded


async def test_where_the_server_keeps_its_list_the_names_are_asked_after() -> None:
    client = server("demo", "other", "hidden")
    client.index_error = ProtocolRestricted("restricted")
    models, _ = catalog(client, names=["other", "absent"])
    await models.refresh()
    assert sorted(model.name for model in models if model.ready) == ["demo", "other"]
    models.add_name("hidden")
    await models.refresh()
    assert models.ready("hidden").expected


async def test_the_model_for_the_engine_that_is_asked_for() -> None:
    client = Server()
    client.add_model("demo", backend="pytorch")
    models, _ = catalog(client, engine="onnx")
    await models.refresh()
    with pytest.raises(ModelNotReady, match=r"runs on pytorch, and .* asks for onnx"):
        models.ready(None)
    assert models.ready("demo").backend == "pytorch"  # by its name it may be asked for
    client.add_model("demo_onnx", backend="onnx")
    await models.refresh()
    assert models.ready(None).name == "demo_onnx"


async def test_kinds_of_models() -> None:
    client = fake_client("demo")
    client.add_model("encoder", type="embedding")
    models, _ = catalog(client, names=["encoder"])
    await models.refresh()
    assert models.language_model(None).name == "demo"
    assert models.embedding_model("encoder").name == "encoder"
    with pytest.raises(InvalidRequest, match="does not generate text"):
        models.language_model("encoder")
    with pytest.raises(InvalidRequest, match="those that do: encoder"):
        models.embedding_model("demo")


async def test_no_model_makes_embeddings() -> None:
    models, _ = catalog(server())
    await models.refresh()
    with pytest.raises(InvalidRequest, match="those that do: none"):
        models.embedding_model(None)


async def test_a_context_is_not_known_before_the_model_is_ready() -> None:
    with pytest.raises(ModelNotReady, match="demo: is not loaded"):
        _ = Model("demo", "demo").context_length


async def test_processes_that_have_never_been_seen_say_nothing() -> None:
    client = server()
    models, unhealthy = catalog(client, processes=ModelProcesses(lambda: None))
    await models.refresh()
    assert models.ready(None).ready
    client.models["demo"].error = DeadlineExceeded()
    await models.refresh()
    assert not unhealthy


async def test_watching_refreshes_at_intervals_and_when_it_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = server()
    models, _ = catalog(client)
    watching = asyncio.ensure_future(models.watch(60))
    models.request_refresh()
    await until(lambda: len(client.requests) == 1)
    nonsense: Any = RuntimeError("a defect")
    client.index_error = nonsense
    models.request_refresh()
    await until(lambda: "could not be read" in caplog.text)
    client.index_error = None
    models.request_refresh()
    await until(lambda: len(client.requests) == 2)  # it goes on after a defect
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert not sent(client)
