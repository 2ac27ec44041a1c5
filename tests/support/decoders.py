"""Tiny random causal language models, one of each family, and a tokenizer for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
VOCABULARY = 272
CONTEXT = 64
"""Of exports; the models themselves have more."""

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    # Wide enough that the greedy choice is far ahead of the second.
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}
_GROUPED = {"num_key_value_heads": 2}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Windows are shorter than what the tests generate, so that they cut something off.
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", {**_GROUPED, "head_dim": 32}),
    "llama3": ("llama", {**_GROUPED, "rope_parameters": _LLAMA3}),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": 8}),
    "phi3": ("phi3", {**_GROUPED, "original_max_position_embeddings": 256}),
    "gemma2": (
        "gemma2",
        {
            **_GROUPED,
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 10.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            **_GROUPED,
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "smollm3": ("smollm3", {**_GROUPED, "no_rope_layers": [1, 0], "use_sliding_window": False}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {"num_hidden_layers": 1}),
    "olmo2": ("olmo2", {**_GROUPED, "num_hidden_layers": 1}),
    "olmo": ("olmo", {**_GROUPED, "clip_qkv": 0.5}),
}


def save_decoder(family: str, folder: Path, seed: int = 0, **changes: Any) -> Path:  # noqa: ANN401
    """Writes a model of ``family`` with its tokenizer. ``changes``: to its configuration."""
    model_type, own = FAMILIES[family]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**_SIZES, **own, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms of 1 and biases of 0 would hide what an export does to them.
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=END)
