"""Training of the demo model's tokenizer, a byte-level BPE."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

VOCABULARY_SIZE = 2048
CONTEXT_LENGTH = 2048

DEFAULT_SYSTEM_MESSAGE = "You are a helpful assistant."

# ChatML as Qwen2 writes it: a missing system message is replaced by the default one.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + DEFAULT_SYSTEM_MESSAGE + "<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# Qwen2's own pattern: loading a Qwen2 model folder rebuilds the tokenizer with it, whatever
# tokenizer.json says, so training with another one would shift the tokens.
# https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen2/tokenization_qwen2.py
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], folder: Path) -> PreTrainedTokenizerBase:
    """Learn merges from the texts, write the tokenizer to a folder, and load it from there.

    Ids 0 to 2 are the special tokens, 3 to 258 the bytes, the rest are merges. A pair of tokens
    must occur twice to be merged, so rare characters stay split into their bytes: the demo then
    shows that streaming never sends half a character.

    Returns:
        The tokenizer as a server will load it.
    """
    PreTrainedTokenizerFast(
        tokenizer_object=_learn_merges(texts),
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    _name_tokenizer_class(folder / "tokenizer_config.json")
    return AutoTokenizer.from_pretrained(folder)


def _learn_merges(texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _name_tokenizer_class(path: Path) -> None:
    # Saving writes "TokenizersBackend", which transformers 4 does not know.
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "Qwen2Tokenizer"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
