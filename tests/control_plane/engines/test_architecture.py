"""Weights are told apart by their files, in a folder and on a hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from control_plane.engines.architecture import WeightsKind, weights_kind
from tests.support.hub import hub

BERT = {"model_type": "bert", "architectures": ["BertModel"]}


def write(folder: Path, config: object, *, modules: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if modules:
        (folder / "modules.json").write_text("[]")
    return folder


@pytest.mark.parametrize(
    ("config", "modules", "kind"),
    [
        (BERT, False, "encoder"),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"]}, 0, "encoder"),
        ({"model_type": "modernbert"}, False, "encoder"),
        ({"model_type": "new-encoder", "architectures": ["NewModel"]}, True, "encoder"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, False, "causal_lm"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, False, "causal_lm"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, True, "encoder"),
        (
            {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
            False,
            "classifier",
        ),
        ([], False, "causal_lm"),
    ],
)
def test_of_a_folder(config: object, modules: bool, kind: WeightsKind, tmp_path: Path) -> None:
    assert weights_kind(str(write(tmp_path, config, modules=modules))) == kind


@pytest.mark.process
def test_of_a_hub(tmp_path: Path) -> None:
    code = (
        "from control_plane.engines.architecture import weights_kind as kind\n"
        "print(kind('some-org/encoder'), kind('some-org/another'))"
    )
    with hub("some-org/encoder", write(tmp_path / "model", BERT)) as endpoint:
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert done == "encoder causal_lm\n"  # of what cannot be had, the engine says what is wrong
