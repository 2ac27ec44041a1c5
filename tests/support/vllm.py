"""The Python environment that has vLLM, its processes, and a LoRA adapter for the demo model."""

from __future__ import annotations

import concurrent.futures
import json
import os
import time
from pathlib import Path

import psutil

from tests.support.server import ROOT, WEIGHTS, TriadServer, wait_until

ENVIRONMENT = Path(os.environ.get("TRIAD_TEST_VLLM") or ROOT / ".venv-vllm")
INSTALLED = (ENVIRONMENT / "bin" / "activate").is_file()

RANK, ALPHA = 4, 8
TARGETS = ("q_proj", "v_proj")


def gauges(server: TriadServer) -> tuple[float, float]:
    """Return how many requests run in the engine, and how many wait."""
    running = server.gauge("vllm:num_requests_running")
    return running, server.gauge("vllm:num_requests_waiting")


def engine_process(server: TriadServer) -> psutil.Process:
    return server.descendants("VLLM::EngineCor")[0]


def model_process(server: TriadServer) -> psutil.Process:
    return engine_process(server).parents()[0]


def killed_while_requests_run(
    server: TriadServer, victim: psutil.Process, seconds: float
) -> list[psutil.Process]:
    """Kill a process of the server's one model, and return the engine's processes.

    AssertionError unless the server is not ready within ``seconds``, and what ran fails with 503.
    """
    engine = engine_process(server)
    processes = [engine, *engine.children(recursive=True)]
    body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(server.post, "/generate", body) for _ in range(4)]
        wait_until(lambda: gauges(server)[0] == 4)
        victim.kill()
        killed = time.monotonic()
        wait_until(lambda: not server.is_ready(), seconds)
        answers = [future.result() for future in running]
    assert time.monotonic() - killed < seconds + 2
    assert {answer.status_code for answer in answers} == {503}
    assert all("died" in answer.json()["error"]["message"] for answer in answers)
    return processes


def make_adapter(adapter: Path, merged: Path) -> None:
    """A random adapter as PEFT stores it, and the demo weights with it added in."""
    import torch  # late: all tests import this module
    from safetensors.torch import load_file, save_file

    for folder in (adapter, merged):
        folder.mkdir()
    weights = load_file(WEIGHTS / "model.safetensors")
    random = torch.Generator().manual_seed(7)
    parts = {}
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        if module.endswith(TARGETS):
            rows, columns = weight.shape
            a = torch.randn(RANK, columns, generator=random) * 0.1
            b = torch.randn(rows, RANK, generator=random) * 0.1
            parts[f"base_model.model.{module}.lora_A.weight"] = a
            parts[f"base_model.model.{module}.lora_B.weight"] = b
            weights[name] = weight.float() + ALPHA / RANK * (b @ a)
    save_file(parts, adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "demo",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(TARGETS),
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.float() for name, tensor in weights.items()},
        merged / "model.safetensors",
        metadata={"format": "pt"},
    )
    for file in WEIGHTS.iterdir():
        if file.suffix != ".safetensors":
            (merged / file.name).write_bytes(file.read_bytes())
