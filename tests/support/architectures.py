"""Small random models of the architectures that transformers has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.support.engines import VOCABULARY

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
}
SLIDING = {"sliding_window": 8}
# transformers' model types, and what their small configurations need beside SMALL.
BATCHED: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": SLIDING,
    "ministral": SLIDING,
    "mixtral": EXPERTS,
    "qwen2": {},
    "qwen2_moe": EXPERTS | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 32},
    "qwen3": {},
    "qwen3_moe": EXPERTS | {"moe_intermediate_size": 16},
    "gemma": {},
    "gemma2": SLIDING | {"query_pre_attn_scalar": 8},
    "gemma3_text": SLIDING | {"query_pre_attn_scalar": 8},
    "gpt_oss": SLIDING | EXPERTS,
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neox": {},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": SLIDING,
    "olmoe": EXPERTS,
    "stablelm": {"partial_rotary_factor": 0.5},
    "starcoder2": SLIDING,
    "smollm3": {},
    "granite": {},
    "cohere": {},
    "cohere2": SLIDING,
    "glm": {"partial_rotary_factor": 0.5},
    "exaone4": SLIDING | {"sliding_window_pattern": 2},
    "helium": {},
    "nemotron": {"partial_rotary_factor": 0.5},
    "ernie4_5": {},
    "seed_oss": {},
    "apertus": {},
    "arcee": {},
    "hunyuan_v1_dense": {},
}
SEQUENTIAL: dict[str, dict[str, Any]] = {
    "bloom": {"n_head": 4, "n_layer": 2},
    "mamba": {"state_size": 8},
}


def save_random(model_type: str, special: dict[str, Any], folder: Path) -> PreTrainedModel:
    torch.manual_seed(1)
    values = special if special is GPT else SMALL | special
    config = AutoConfig.for_model(model_type, **values)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
