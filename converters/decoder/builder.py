"""The exporter for architectures that onnxruntime-genai's model builder knows.

Its graphs are faster than exported ones (`GroupQueryAttention` reads no more of the KV cache than a
sequence has), but for some architectures it leaves things out without a warning.
Source: https://github.com/microsoft/onnxruntime-genai/tree/main/src/python/py/models
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from converters.common.errors import ConversionError
from converters.common.options import ExportOptions, OrtCompat
from converters.decoder.source import DecoderSource

# Found right by the tests of this repository, or by checks against the model.
VERIFIED = frozenset(
    {
        "Gemma2ForCausalLM",
        "GemmaForCausalLM",
        "GraniteForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    }
)
ROPE_TYPES = frozenset({"default", "dynamic", "llama3"})


def unsuitable_reason(source: DecoderSource, options: ExportOptions) -> str | None:
    """Return why the builder should not be tried, or None where it should."""
    architecture = type(source.model).__name__
    if architecture not in VERIFIED:
        return f"{architecture} is not among the architectures that it is known to get right"
    if options.precision == "fp16":
        return "its float16 graphs are for GPUs"
    if source.windows and architecture != "Gemma2ForCausalLM":
        return f"it leaves out the sliding window of {source.windows[0]} tokens"
    if source.windows and options.ort_compat != "latest":
        return "ONNX Runtime up to 1.22 takes one token too many into a sliding window"
    if getattr(source.config, "attn_logit_softcapping", None) and options.ort_compat == "1.19":
        return "ONNX Runtime 1.19 has no soft-capping in GroupQueryAttention"
    if source.rope_type not in ROPE_TYPES:
        return f"it is not known to get rotary embeddings of type {source.rope_type} right"
    return None


def supports_chunked_prefill(compat: OrtCompat) -> bool:
    """Return whether `GroupQueryAttention` takes several new tokens behind a past, one sequence at
    a time.

    ONNX Runtime 1.19 computes it wrongly, without an error; from 1.22 on it is right, and an error
    in a batch of several sequences.
    """
    return compat != "1.19"


def extra_options(precision: str, compat: OrtCompat) -> dict[str, str]:
    """Return the builder's ``--extra_options``."""
    extra = {"hf_token": "false", "prune_lm_head": "true", "windowed_kv_cache": "false"}
    if precision == "int4":
        # More than four bits for the weights that errors hurt most. 1.19 has four bits alone.
        extra["algo_config"] = "k_quant" if compat == "1.19" else "k_quant_mixed"
        if compat != "latest":
            extra["shared_embeddings"] = "false"  # they need a newer GatherBlockQuantized
    elif precision == "int8":
        extra["algo_config"] = "k_quant"
    return extra


def export_graph(source: DecoderSource, folder: Path, options: ExportOptions) -> Path:
    """Write a graph to ``folder`` and return its path. Raises `ConversionError` when the builder
    fails."""
    extra = extra_options(options.precision, options.ort_compat)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["--input", str(source.folder), "--output", str(folder)]
    command += ["--precision", options.precision, "--execution_provider", "cpu"]
    command += ["--cache_dir", str(folder / "cache")]
    command += ["--extra_options", *(f"{key}={value}" for key, value in extra.items())]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1][:300]
        raise ConversionError(f"the model builder of onnxruntime-genai failed: {last}")
    return folder / "model.onnx"
