"""The demo model's tokenizer, and one that stands for SentencePiece's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers

from backends.contract.errors import EngineError
from backends.contract.sampling import SamplingParameters
from backends.engine import EngineRequest, Token
from backends.guidance.compiler import GrammarCompiler
from backends.guidance.guide import Guide, restrict
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.support.server import ROOT

DEMO = ROOT / "model_repository" / "demo" / "1" / "weights"
EOS = (2, 0)
PADDED = 2048 + 40
"""Logits: more than the demo's tokenizer has tokens."""


class NoSink:
    def put(self, token: Token, finish_reason: object) -> None:
        raise AssertionError("nothing is generated here")

    def fail(self, error: EngineError) -> None:
        raise AssertionError("nothing is generated here")


def request(output_ids: list[int] | None = None, **sampling: Any) -> EngineRequest:  # noqa: ANN401
    parameters = SamplingParameters.from_json(json.dumps(sampling))
    return EngineRequest([5], parameters, NoSink(), output_ids or [])


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(DEMO)


@pytest.fixture(scope="session")
def compiler(tokenizer: Tokenizer) -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(tokenizer.to_json, PADDED, EOS)
    yield made
    made.close()


@pytest.fixture
def guide(compiler: GrammarCompiler) -> Callable[..., Guide]:
    """``guide(json=…)``, and ``output_ids`` where tokens were generated before."""

    def make(output_ids: list[int] | None = None, **guided: object) -> Guide:
        return compiler.prepare(request(output_ids, guided=guided)).result(30)

    return make


def allowed(guide: Guide, vocabulary: int = PADDED) -> set[int]:
    """The ids that a guide leaves."""
    scores = restrict(torch.zeros(1, vocabulary), [guide])[0]
    return set(scores.isfinite().nonzero()[:, 0].tolist())


def sentencepiece_json() -> str:
    """A tokenizer like Llama 2's: ``▁`` for a space, and a token for each byte."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁yes", "yes", "▁no", "no", "!", "é", "▁▁"]
    raw = RawTokenizer(
        models.BPE(
            vocab={piece: id_ for id_, piece in enumerate(pieces)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    raw.add_special_tokens(["<unk>", "<s>", "</s>"])
    return str(raw.to_str())
