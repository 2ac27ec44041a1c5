"""Structured output on the device: the demo model, whose answers keep to their grammars."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.contract.sampling import SamplingParameters
from backends.engine import EngineRequest
from backends.pytorch.engine import PyTorchEngine
from backends.pytorch.loading import LoadOptions, load
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.support.engines import Recorder

pytest.importorskip("llguidance", reason="structured output needs llguidance")

DEMO = Path(__file__).parents[2] / "model_repository" / "demo" / "1" / "weights"
PATTERNS = ["[0-9]{6}", "(yes|no)", "[a-c]{1,5}-[x-z]{3}", "é[A-Z]{2}"]


def test_answers_keep_to_their_grammars_in_concurrent_requests(device: torch.device) -> None:
    """Guided and free requests share steps, on the device's copies of the masks."""
    tokenizer = Tokenizer(DEMO)
    parameters = {"device": str(device), "max_num_seqs": "8", "torch_dtype": "float32"}
    options = LoadOptions.of(str(DEMO), parameters)
    engine = PyTorchEngine(lambda: load(options), tokenizer_json=tokenizer.to_json)

    def submit(**sampling: Any) -> Recorder:  # noqa: ANN401
        sink = Recorder()
        values = {"max_tokens": 60, "temperature": 1.0} | sampling
        request = EngineRequest([5, 6, 7], SamplingParameters.from_json(json.dumps(values)), sink)
        engine.submit(request)
        return sink

    try:
        free_alone = submit(seed=3).wait().ids
        guided = [submit(seed=i, guided={"regex": PATTERNS[i % 4]}) for i in range(12)]
        free = submit(seed=3)
        for i, sink in enumerate(guided):
            text = tokenizer.decode(sink.wait().ids)
            assert sink.finish_reason == "stop"
            assert re.fullmatch(PATTERNS[i % 4], text)
        assert free.wait().ids == free_alone
    finally:
        engine.close()
