"""A checkpoint whose tokenizer is a SentencePiece model and nothing else."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import sentencepiece

from backends.contract.errors import EngineError
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from backends.text.tokenizer_files import SENTENCEPIECE
from tests.support.server import ROOT
from tests.support.tokenizers import CORPUS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Vicuna and OpenLLaMA have it."""
    folder = tmp_path_factory.mktemp("vicuna")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_writer=model,
        vocab_size=340,
        model_type="bpe",
        normalization_rule_name="identity",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_it_loads_where_sentencepiece_is_there(folder: Path) -> None:
    text = "The quick fox says 日本"
    tokenizer = Tokenizer(folder)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids).strip() == text
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert ids[1:] == reference.encode(text)


def test_else_what_to_install_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sentencepiece"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(
        EngineError, match=f'sentencepiece is not installed: install "{SENTENCEPIECE}"'
    ):
        Tokenizer(folder)
    assert f'"{SENTENCEPIECE}"' in (ROOT / "pyproject.toml").read_text()
