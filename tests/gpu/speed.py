"""Tokens per second of the PyTorch engine on a GPU, beside ``generate`` of transformers.

``python -m tests.gpu.speed [--rounds N]``: a random Qwen2 of 494 million parameters in bfloat16,
prompts of 128 tokens, 128 new tokens, greedy, in one process without Triton or HTTP. The targets
take turns, round by round: the engine with CUDA graphs, the engine without, and ``generate`` with
one static batch of all prompts, which is the best case for it: all requests come and end together.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from backends.pytorch.engine import PyTorchEngine
from backends.pytorch.loading import LoadOptions, load
from tests.support.engines import random_prompt, submit

STREAMS = (1, 16, 64)
PROMPT_TOKENS = 128
NEW_TOKENS = 128


def save_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def start_engine(folder: Path, device: str, graphs: str) -> PyTorchEngine:
    parameters = {"device": device, "max_num_seqs": str(max(STREAMS)), "cuda_graphs": graphs}
    options = LoadOptions.of(str(folder), parameters | {"memory_utilization": "0.4"})
    return PyTorchEngine(lambda: load(options))


def run_engine(engine: PyTorchEngine, streams: int, seed: int) -> None:
    prompts = [random_prompt(seed + number, PROMPT_TOKENS) for number in range(streams)]
    sinks = [submit(engine, prompt, max_tokens=NEW_TOKENS)[1] for prompt in prompts]
    for sink in sinks:
        assert len(sink.wait().ids) == NEW_TOKENS


def main() -> int:
    parser = argparse.ArgumentParser(description="Tokens per second on a GPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder)
        engines = {
            "engine, CUDA graphs": start_engine(folder, arguments.device, "auto"),
            "engine, no graphs": start_engine(folder, arguments.device, "false"),
        }
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        model = model.to(arguments.device).eval()

        def run_generate(streams: int, seed: int) -> None:
            prompts = [random_prompt(seed + number, PROMPT_TOKENS) for number in range(streams)]
            ids = torch.tensor(prompts, device=arguments.device)
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )

        targets: dict[str, Callable[[int, int], None]] = {
            label: lambda streams, seed, engine=engine: run_engine(engine, streams, seed)  # type: ignore[misc]
            for label, engine in engines.items()
        }
        targets["transformers, static batch"] = run_generate
        for streams in STREAMS:
            rates: dict[str, list[float]] = {label: [] for label in targets}
            for round_ in range(-1, arguments.rounds):  # the first is to warm up
                for label, run in targets.items():
                    begin = time.perf_counter()
                    run(streams, 10_000 * (round_ + 2))
                    if round_ >= 0:
                        rates[label].append(streams * NEW_TOKENS / (time.perf_counter() - begin))
            for label, values in rates.items():
                print(  # noqa: T201
                    f"{streams:3} streams  {label:27} {statistics.median(values):9.0f} tokens/s "
                    f"({min(values):.0f}..{max(values):.0f})",
                    flush=True,
                )
        for engine in engines.values():
            engine.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
