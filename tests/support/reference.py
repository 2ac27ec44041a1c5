"""What plain transformers generates with the demo weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

MAX_TOKENS = 64
PROMPTS = [
    "What is machine learning?",
    "What is the capital of France?",
    "Explain quantum computing",
    "What is artificial intelligence?",
    "Write a story about a robot",
    "Tell me a joke",
    "What is a neural network?",
    "What is Python?",
    "what is a database",
    "What is the capital of Japan?",
    "Who are you?",
    "Hello",
    "What is gravity?",
    "Explain photosynthesis",
    "What is ONNX?",
    "What is a token?",
    # Nothing that the model was trained on: its output is nonsense, and has to be equal.
    "The quick brown fox jumps over",
    "def main():\n    return",
    "日本語のテキスト",
    "Ünïcödé and emoji 🙂🚀",
    "1, 2, 3, 4,",
    "x",
    "a long prompt " * 60,
    "{\"json\": [1, 2, 3]}",
]  # fmt: skip


@dataclass
class Reference:
    """Plain transformers, in float32."""

    tokenizer: Any
    model: Any

    def generate(self, prompt: str, **options: Any) -> list[int]:  # noqa: ANN401
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids
        options = {"do_sample": False, "max_new_tokens": MAX_TOKENS} | options
        output = self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        new: list[int] = output[0, ids.shape[1] :].tolist()
        return new

    def text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text
