"""Servers that the whole test run shares."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from control_plane.auth.keys import KeyStore
from tests.support import faults, vllm
from tests.support.parallel import Scheduling, path_of, rank, started_twice
from tests.support.selection import ProcessGuard, mark
from tests.support.server import (
    SCRIPTED,
    SCRIPTED_CHAT,
    WEIGHTS,
    TriadServer,
    lives,
    triad_server,
    wait_for_ends,
    wait_until,
)

SHARED_MODELS = {"demo", "demo_onnx", "scripted", "scripted_chat"}
ServerFactory = Callable[..., TriadServer]

# Operations as small as those of the tests' models take longer on several threads, above all when
# two processes run tests. The debug server, for one, has all cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What servers keep is not the user's.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="triad-tests-")


_PROCESS_GUARD = pytest.StashKey[ProcessGuard]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_PROCESS_GUARD] = ProcessGuard()


@pytest.hookimpl(tryfirst=True)  # before ``-m`` selects by the mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark(item, path_of(item))
    if several := started_twice(items):
        raise pytest.UsageError(f"one group has to use a server, not several: {'; '.join(several)}")
    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with item.config.stash[_PROCESS_GUARD].watching(item):
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:  # noqa: ANN401
    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def servers_end() -> Iterator[None]:
    """Tests do not wait for their servers to stop; the run does."""
    yield
    wait_for_ends()
    shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """A server with the demo models and the scripted ones; PyTorch's demo is the default. Leave it
    as it is."""
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {
        "TRIAD_SERVING__MODELS": f"[{SCRIPTED}, {SCRIPTED_CHAT}, demo_onnx]",
        "TRIAD_SERVING__KEEP_ALIVE_INTERVAL": "0.5",
        "OMP_DISPLAY_ENV": "VERBOSE",
    }
    with triad_server(log, environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def server_processes(server: TriadServer) -> list[psutil.Process]:
    """Return Triton and its models' processes, as last seen with all models loaded."""
    wait_until(lambda: server.has_loaded(SHARED_MODELS), timeout=120)
    return server.descendants("triton")


@pytest.fixture(autouse=True)
def server_is_ready(request: pytest.FixtureRequest) -> None:
    """Wait for the shared server if one of its processes has ended.

    On a machine that stands still for seconds, Triton takes its models for dead and crashes. The
    test that meets this fails; those after it wait until the supervisor has brought all back.
    """
    if "server" not in request.fixturenames:
        return
    processes: list[psutil.Process] = request.getfixturevalue("server_processes")
    if not all(map(lives, processes)):
        shared: TriadServer = request.getfixturevalue("server")
        wait_until(lambda: shared.has_loaded(SHARED_MODELS), timeout=120)
        processes[:] = shared.descendants("triton")


@pytest.fixture(scope="session")
def debug_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """With verbose logs and `/profile`, and with control tokens allowed in messages; the demo model
    as a folder of weights, ``my-model``. Its Triton has no ports, as is the default."""
    folder = tmp_path_factory.mktemp("debug-server")
    (folder / "my-model").symlink_to(WEIGHTS)
    arguments = ("--model", f"{folder / 'my-model'}/")
    environment = {
        "TRIAD_SERVING__DEBUG": "true",
        "TRIAD_SERVING__PROFILING": "true",
        "TRIAD_SERVING__ALLOW_CONTROL_TOKENS": "true",
        "TRIAD_SERVING__TRITON__GRPC_PORT": "0",
        "TRIAD_SERVING__TRITON__HTTP_PORT": "0",
        "TRIAD_SERVING__PYTORCH__SPIN_COUNT": "123",
        "OMP_DISPLAY_ENV": "VERBOSE",
        "OMP_NUM_THREADS": str(os.cpu_count()),
    }
    with triad_server(folder / "log", *arguments, environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def vllm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a LoRA adapter in ``adapter``, and in ``merged`` the demo weights with it added in."""
    folder = tmp_path_factory.mktemp("vllm")
    vllm.make_adapter(folder / "adapter", folder / "merged")
    return folder


@pytest.fixture(scope="session")
def vllm_server(vllm_folder: Path) -> Iterator[TriadServer]:
    """A server with the demo model on vLLM, which has an adapter `noise`, and fails on request.
    Leave it as it is."""
    if not vllm.INSTALLED:
        pytest.skip("vLLM is not installed: `make test` does that")
    faults.vllm(vllm_folder / "models")
    environment = {
        "TRIAD_SERVING__BACKEND_TYPE": "vllm",
        "TRIAD_SERVING__TRITON__MODEL_REPOSITORY": str(vllm_folder / "models"),
        "TRIAD_SERVING__VLLM__PYTHON_ENVIRONMENT": str(vllm.ENVIRONMENT),
        "TRIAD_SERVING__VLLM__MAX_NUM_SEQS": "8",
        "TRIAD_SERVING__VLLM__LORA_MODULES": f"{{noise: {vllm_folder / 'adapter'}}}",
    }
    with triad_server(vllm_folder / "log", environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights by the name of the model that has them: of ``bert`` the mean of a text's tokens is
    its vector, of ``mpnet`` that of the first. ``embedder`` is ``bert``'s, on ONNX."""
    from tests.support.encoders import save_encoder, say_pooling  # late: they import PyTorch

    folder = tmp_path_factory.mktemp("encoders")
    bert, mpnet = (save_encoder(name, folder / name) for name in ("bert", "mpnet"))
    say_pooling(mpnet, "cls_token", normalize=True)
    return {"bert": bert, "mpnet": mpnet, "embedder": bert}


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory, encoders: dict[str, Path]) -> Path:
    """Return the folder of the ONNX model ``embedder``. Leave it as it is."""
    from tests.support.encoders import export

    folder = tmp_path_factory.mktemp("embedder")
    export(encoders["embedder"], folder, "embedder")
    return folder / "embedder"


@pytest.fixture(scope="session")
def others_server(
    tmp_path_factory: pytest.TempPathFactory, encoders: dict[str, Path], embedder: Path
) -> Iterator[TriadServer]:
    """Encoders and a plain ONNX model, ``double``, beside a language model, the scripted one."""
    from tests.support.onnx_models import double, entry

    folder = tmp_path_factory.mktemp("others")
    entry(folder, "double", double(), "")
    models = [embedder, folder / "double", encoders["bert"], encoders["mpnet"]]
    environment = {"TRIAD_SERVING__MODELS": f"[{', '.join(map(str, models))}]"}
    arguments = ("--model", str(SCRIPTED))
    with triad_server(folder / "log", *arguments, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyStore]:
    store = KeyStore(tmp_path_factory.mktemp("keys") / "keys.db")
    yield store
    store.close()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[ServerFactory]:
    """Starts servers of a test's own: with the scripted model unless told otherwise."""
    with ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> TriadServer:
            log = tmp_path / f"server-{len(list(tmp_path.iterdir()))}.log"
            if "--model" not in arguments:
                arguments = ("--model", str(SCRIPTED), *arguments)
            return stack.enter_context(triad_server(log, *arguments, environment=environment))

        yield start
