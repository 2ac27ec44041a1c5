"""The Python environment that has vLLM, and a LoRA adapter for the demo model."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.support.server import ROOT, WEIGHTS

ENVIRONMENT = Path(os.environ.get("TRIAD_TEST_VLLM") or ROOT / ".venv-vllm")
INSTALLED = (ENVIRONMENT / "bin" / "activate").is_file()

RANK, ALPHA = 4, 8
TARGETS = ("q_proj", "v_proj")


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
