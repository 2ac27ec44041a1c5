"""Small tokenizers of the kinds that models have, with a chat template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The quick brown fox jumps over the lazy dog, user and assistant say hello world.",
    'system im start end tool call: {"name": "f", "arguments": {"x": 1}} <b> | _ /',
]
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<h1>", "   "]
"""Not special, as Qwen has them; a template need not know the last two."""


def _byte_level() -> RustTokenizer:
    """As GPT-2, Llama 3 and Qwen have it: every byte is a token."""
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(tokenizer, trainers.BpeTrainer, vocab_size=400, initial_alphabet=alphabet)


def _byte_fallback() -> RustTokenizer:
    """As Llama 2, Mistral and Gemma have it: bytes for rare characters only."""
    tokenizer = RustTokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    _trained(tokenizer, trainers.BpeTrainer, vocab_size=120)
    vocabulary = tokenizer.get_vocab()
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    tokenizer.model = models.BPE(
        vocab=vocabulary, merges=[], byte_fallback=True, fuse_unk=True, unk_token="<unk>"
    )
    return tokenizer


def _metaspace() -> RustTokenizer:
    """As the newer conversions of SentencePiece have it; a first word has a space before it."""
    tokenizer = RustTokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return _trained(tokenizer, trainers.UnigramTrainer, vocab_size=90, unk_token="<unk>")


def _word_piece() -> RustTokenizer:
    """As BERT has it: accents and spaces are left out, and a long word is one unknown token."""
    tokenizer = RustTokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _trained(tokenizer, trainers.WordPieceTrainer, vocab_size=120)


def _trained(
    tokenizer: RustTokenizer, trainer: Callable[..., Any], **options: object
) -> RustTokenizer:
    made = trainer(special_tokens=SPECIAL, show_progress=False, **options)
    tokenizer.train_from_iterator(CORPUS, made)
    return tokenizer


KINDS: Mapping[str, Callable[[], RustTokenizer]] = {
    "byte_level": _byte_level,
    "byte_fallback": _byte_fallback,
    "metaspace": _metaspace,
    "word_piece": _word_piece,
}


def save_tokenizer(
    kind: str, folder: Path, template: str | None = None, added: Sequence[str] = ADDED
) -> Path:
    tokenizer = KINDS[kind]()
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        eos_token="<|im_end|>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    return folder
