"""Detokenisation gives the same text however the tokens arrive; chats, and where tokens stand."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from backends.contract.chat import ChatOptions
from backends.contract.errors import InvalidField
from backends.text.detokenizer import (
    CONTEXT_TOKENS,
    REPLACEMENT,
    WINDOW_TOKENS,
    Detokenizer,
    RawDecoder,
)
from backends.text.offsets import token_offsets
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then the other dogs bark.",
    "Größere Übungen für Äpfel und Öfen; déjà vu, naïve façade, e\u0301tude.",
    "敏捷的棕色狐狸跳过懒狗。日本語のテキストです。한국어 문장입니다.",
    "Быстрая коричневая лиса прыгает. नमस्ते दुनिया। مرحبا بالعالم",
    "😀😃 👩‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽",
]
CHARACTERS = [*"abc the\n\t.,é", "e\u0301", *"日本語한국", "ß", "ж", "न", "म", "\u200d", "\ufffd"]
CHARACTERS += ["😀", "👩‍👩‍👧", "🇩🇪", "👍🏽", "\U0001d518", "\U0010ffff", " the", " dog"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<s>{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


def random_text(generator: random.Random, length: int) -> str:
    return "".join(generator.choices(CHARACTERS, k=length))


def save(tokenizer: RustTokenizer, folder: Path, chat_template: str | None = None) -> Tokenizer:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", chat_template=chat_template
    )
    wrapped.save_pretrained(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen have it: every byte is a token, some sequences are merged."""
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return save(tokenizer, tmp_path_factory.mktemp("byte_level"), CHAT_TEMPLATE)


@pytest.fixture(scope="module")
def single_bytes(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte-level without merges: a token is a byte."""
    vocabulary = {byte: id_ for id_, byte in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = RustTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return save(tokenizer, tmp_path_factory.mktemp("single_bytes"))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As Llama 2, Mistral and Gemma have it: ``▁`` for a space, bytes only for rare characters."""
    pieces = ["▁", "▁the", "▁dog", "▁Hello", "world", *"abcdeghlotw.,", "é", "日", "\u0301"]
    vocabulary = ["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [("▁", "d"), ("o", "g"), ("▁d", "og"), ("t", "h"), ("▁", "th"), ("▁th", "e")]
    vocabulary += [made for pair in merges if (made := "".join(pair)) not in vocabulary]
    tokenizer = RustTokenizer(
        models.BPE(
            vocab={piece: id_ for id_, piece in enumerate(vocabulary)},
            merges=merges,
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return save(tokenizer, tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="module")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As T5 and the newer SentencePiece conversions have it."""
    tokenizer = RustTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return save(tokenizer, tmp_path_factory.mktemp("metaspace"))


def stream(tokenizer: Tokenizer, ids: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    """The pieces of ``ids``, the flushed rest last."""
    detokenizer = Detokenizer(tokenizer, prompt)
    return [*(detokenizer.push(id_) for id_ in ids), detokenizer.flush()]


def resume(tokenizer: Tokenizer, prompt: Sequence[int], delivered: Sequence[int]) -> Detokenizer:
    """What goes on, elsewhere, after ``delivered``."""
    detokenizer = Detokenizer(tokenizer, prompt)
    for token_id in delivered:
        detokenizer.push(token_id)
    return detokenizer


def rest(detokenizer: Detokenizer, ids: Sequence[int]) -> str:
    return "".join([*(detokenizer.push(id_) for id_ in ids), detokenizer.flush()])


def byte_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens that are not a whole character on their own."""
    return [id_ for id_ in range(300) if REPLACEMENT in tokenizer.decode([id_])]


# --- byte-level ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_pieces_of_random_texts_concatenate_to_the_text(byte_level: Tokenizer, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(10):
        text = random_text(generator, generator.randint(1, 60))
        prompt = byte_level.encode(random_text(generator, generator.randint(0, 12)) + ".")
        assert "".join(stream(byte_level, byte_level.encode(text), prompt)) == text


def test_a_replacement_character_that_ends_the_prompt_is_not_repeated(
    byte_level: Tokenizer,
) -> None:
    ids = byte_level.encode(" dog")
    assert "".join(stream(byte_level, ids, byte_level.encode(f"a{REPLACEMENT}"))) == " dog"


@pytest.mark.parametrize("seed", range(8))
def test_no_character_is_split(byte_level: Tokenizer, seed: int) -> None:
    text = random_text(random.Random(seed), 200).replace(REPLACEMENT, "")
    pieces = stream(byte_level, byte_level.encode(text))
    assert REPLACEMENT not in "".join(pieces)
    assert pieces[-1] == ""  # nothing had to wait for the end


@pytest.mark.parametrize("seed", range(8))
def test_invalid_bytes_come_out_as_decoding_at_once_gives_them(
    byte_level: Tokenizer, seed: int
) -> None:
    generator = random.Random(seed)
    parts = byte_ids(byte_level)
    assert len(parts) > 100
    for length in range(1, 40):
        mixed = [generator.choice((generator.choice(parts), 80, 250)) for _ in range(length)]
        assert "".join(stream(byte_level, mixed)) == byte_level.decode(mixed)


@pytest.mark.parametrize("character", ["é", "日", "😀"])
def test_a_character_comes_with_its_last_byte(single_bytes: Tokenizer, character: str) -> None:
    ids = single_bytes.encode(character)
    assert len(ids) == len(character.encode())
    assert stream(single_bytes, ids) == [*[""] * (len(ids) - 1), character, ""]


@pytest.mark.parametrize("length", [WINDOW_TOKENS - 1, WINDOW_TOKENS, WINDOW_TOKENS + 1, 500])
@pytest.mark.parametrize("character", ["a", "語", "😀", "e\u0301"])
def test_outputs_longer_than_the_window(byte_level: Tokenizer, character: str, length: int) -> None:
    text = character * length
    assert "".join(stream(byte_level, byte_level.encode(text))) == text


def test_the_window_stays_small(byte_level: Tokenizer) -> None:
    class Counting:
        longest = 0

        def decode(self, ids: Sequence[int]) -> str:
            self.longest = max(self.longest, len(ids))
            return byte_level.decode(ids)

    counting = Counting()
    detokenizer = Detokenizer(counting, [])
    for id_ in byte_level.encode(random_text(random.Random(0), 500)):
        detokenizer.push(id_)
    assert counting.longest <= WINDOW_TOKENS + 8  # and the bytes of an unfinished character


def test_an_unfinished_character_becomes_a_replacement_at_the_end(single_bytes: Tokenizer) -> None:
    ids = single_bytes.encode("a😀")[:-1]
    assert stream(single_bytes, ids) == ["a", "", "", "", REPLACEMENT]


def test_invalid_bytes_go_out_once_they_can_be_no_character(single_bytes: Tokenizer) -> None:
    stray = single_bytes.encode("é")[1]
    pieces = stream(single_bytes, [stray] * 50)
    assert "".join(pieces) == REPLACEMENT * 50
    assert len(pieces[-1]) <= 4


def test_special_tokens_have_no_text(byte_level: Tokenizer) -> None:
    (special,) = byte_level.encode("<s>")
    ids = [special, *byte_level.encode("a dog"), special, *byte_level.encode(" barks"), special]
    assert "".join(stream(byte_level, ids)) == "a dog barks"


@pytest.mark.parametrize("seed", range(4))
def test_resuming_anywhere_continues_the_text(byte_level: Tokenizer, seed: int) -> None:
    """Also inside of a character: its first tokens are then part of what was resumed."""
    generator = random.Random(seed)
    prompt, ids = (byte_level.encode(random_text(generator, length)) for length in (5, 20))
    for at in range(len(ids) + 1):
        first = Detokenizer(byte_level, prompt)
        before = "".join(first.push(id_) for id_ in ids[:at])
        after = rest(resume(byte_level, prompt, ids[:at]), ids[at:])
        assert before + after == byte_level.decode(ids)


# --- SentencePiece ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
@pytest.mark.parametrize("length", [1, 3, WINDOW_TOKENS, 100])
def test_the_space_before_the_first_word_is_kept(
    kind: str, length: int, request: pytest.FixtureRequest
) -> None:
    """Decoded on its own, the first word would lose it."""
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    prompt = tokenizer.encode("the dog")
    full = tokenizer.encode("the dog" + " the" * length)
    assert full[: len(prompt)] == prompt
    assert tokenizer.decode(full[len(prompt) :]) == " ".join(["the"] * length)
    assert "".join(stream(tokenizer, full[len(prompt) :], prompt)) == " the" * length


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace"])
def test_resuming_keeps_the_space_between_words(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode("the dog the dog the dog the dog the dog the dog the dog")
    for at in range(1, len(ids)):
        after = rest(resume(tokenizer, ids[:1], ids[1:at]), ids[at:])
        assert tokenizer.decode(ids[:at]) + after == tokenizer.decode(ids)


@pytest.mark.parametrize("character", ["ß", "語", "😀"])
def test_a_character_of_byte_tokens_comes_whole(sentencepiece: Tokenizer, character: str) -> None:
    """Unfinished, such a character decodes to one U+FFFD a byte, not to a single one."""
    prompt, full = sentencepiece.encode("the"), sentencepiece.encode(f"the{character}")
    ids = full[len(prompt) :]
    assert len(ids) == len(character.encode())
    assert stream(sentencepiece, ids, prompt) == [*[""] * (len(ids) - 1), character, ""]


@pytest.mark.parametrize("text", ["语言", "😀😀", "a😀b😀", "ßßß", "é語é語", "👩 the dog 👍"])
def test_characters_of_byte_tokens_in_a_row(sentencepiece: Tokenizer, text: str) -> None:
    """The bytes of all of them make one run; one unfinished character spoils its whole decoding."""
    prompt, full = sentencepiece.encode("the"), sentencepiece.encode(f"the{text}")
    assert "".join(stream(sentencepiece, full[len(prompt) :], prompt)) == text


@pytest.mark.parametrize("repeats", range(4, 24, 3))
@pytest.mark.parametrize("character", ["ß", "語", "😀"])
def test_runs_of_byte_tokens_longer_than_the_window(
    sentencepiece: Tokenizer, character: str, repeats: int
) -> None:
    """The window must not begin inside of a character."""
    text = character * repeats + " the dog"
    prompt, full = sentencepiece.encode("the"), sentencepiece.encode(f"the{text}")
    assert "".join(stream(sentencepiece, full[len(prompt) :], prompt)) == text


@pytest.mark.parametrize("seed", range(8))
def test_random_texts_of_words_and_byte_tokens(sentencepiece: Tokenizer, seed: int) -> None:
    text = random_text(random.Random(seed), 100).replace(REPLACEMENT, "")
    prompt, full = sentencepiece.encode("the"), sentencepiece.encode(f"the {text}")
    assert "".join(stream(sentencepiece, full[len(prompt) :], prompt)) == f" {text}"


@pytest.mark.parametrize("at", range(9))
def test_resuming_in_a_run_of_byte_tokens(sentencepiece: Tokenizer, at: int) -> None:
    prompt, full = sentencepiece.encode("the"), sentencepiece.encode("the😀😀 dog")
    ids = full[len(prompt) :]
    first = Detokenizer(sentencepiece, prompt)
    before = "".join(first.push(id_) for id_ in ids[:at])
    after = rest(resume(sentencepiece, prompt, ids[:at]), ids[at:])
    assert before + after == "😀😀 dog"


# --- single tokens ------------------------------------------------------------------------------

TEXT = "the dog, 日本 😀 Grüße"


@pytest.mark.parametrize("kind", ["byte_level", "single_bytes", "sentencepiece"])
def test_the_bytes_of_tokens_are_those_of_the_text(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    spelled = [tokenizer.token(id_) for id_ in tokenizer.encode(TEXT)]
    whole = b"".join(text.encode() if raw is None else raw for text, raw in spelled)
    assert whole.decode().lstrip() == TEXT
    assert any(raw is not None for _, raw in spelled)


def test_a_token_keeps_its_leading_space(metaspace: Tokenizer) -> None:
    texts = [metaspace.token(id_)[0] for id_ in metaspace.encode("the dog and the dog")]
    assert "".join(texts) == " the dog and the dog"


def test_a_special_token_has_its_own_text(byte_level: Tokenizer) -> None:
    (id_,) = byte_level.encode("<s>")
    assert byte_level.token(id_) == ("<s>", None)
    assert byte_level.is_special(id_)
    assert byte_level.decode([id_]) == ""
    assert RawDecoder(byte_level).decode([id_]) == "<s>"


# --- chat ---------------------------------------------------------------------------------------


def test_the_models_own_template_makes_the_prompt(byte_level: Tokenizer) -> None:
    ids = byte_level.encode_chat([{"role": "user", "content": "a dog"}])
    assert ids == byte_level.encode("<s>user: a dog\n<s>assistant:")


def test_a_developer_is_the_system_to_templates_that_know_none(byte_level: Tokenizer) -> None:
    chat = byte_level.render_chat([{"role": "developer", "content": "a dog"}])
    assert chat.text == "<s>system: a dog\n<s>assistant:"


def test_an_answer_can_be_begun(byte_level: Tokenizer) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the"}]
    options = ChatOptions(add_generation_prompt=False, continue_final_message=True)
    chat = byte_level.render_chat(messages, None, options)
    assert chat.text == "<s>user: a\n<s>assistant: the"


def test_a_model_without_a_template_refuses_messages(metaspace: Tokenizer) -> None:
    with pytest.raises(InvalidField, match=r"^messages: .*no chat template"):
        metaspace.encode_chat([{"role": "user", "content": "the dog"}])


def test_what_the_template_refuses_is_the_callers_error(byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidField, match=r"^messages: .*no tools here"):
        byte_level.encode_chat([{"role": "tool", "content": "a dog"}])


def test_the_context_is_shorter_than_the_window() -> None:
    assert CONTEXT_TOKENS < WINDOW_TOKENS


# --- where a prompt's tokens stand --------------------------------------------------------------

OFFSET_TEXTS = ["Hello world", "the dog, the dog", "a 😀 é 日本 x", "  two  spaces ", "e\u0301"]


@pytest.mark.parametrize("text", OFFSET_TEXTS)
@pytest.mark.parametrize("name", ["byte_level", "single_bytes", "sentencepiece", "metaspace"])
def test_offsets_are_the_texts_own(request: pytest.FixtureRequest, name: str, text: str) -> None:
    """Also where a token is a part of a character, or the text of all has a space less."""
    tokenizer: Tokenizer = request.getfixturevalue(name)
    offsets = tokenizer.text_offsets(text)
    ids = tokenizer.encode(text)
    assert len(offsets) == len(ids)
    assert (offsets[0], offsets) == (0, sorted(offsets))
    for id_, begin, end in zip(ids, offsets, [*offsets[1:], len(text)], strict=True):
        spelled, raw = tokenizer.token(id_)
        if raw is None and begin < end and tokenizer.decode(ids).strip() == text.strip():
            assert text[begin:end].strip() == spelled.strip()


def test_a_token_that_is_not_in_the_text_stands_at_the_next_one(sentencepiece: Tokenizer) -> None:
    with_beginning = copy.deepcopy(sentencepiece)
    with_beginning._tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    ids = with_beginning.encode("the dog")
    assert with_beginning.token(ids[0])[0] == "<s>"
    assert with_beginning.text_offsets("the dog") == [0, 0, 3]


@pytest.mark.parametrize("text", OFFSET_TEXTS)
@pytest.mark.parametrize("name", ["byte_level", "single_bytes", "sentencepiece", "metaspace"])
def test_offsets_of_ids_are_those_of_their_text(
    request: pytest.FixtureRequest, name: str, text: str
) -> None:
    """The quick way has them as decoding token by token has them."""
    tokenizer: Tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(text)
    for part in (ids, ids[:-1], ids[1:], [0, *ids]):
        detokenizer, offsets, length = Detokenizer(RawDecoder(tokenizer), []), [], 0
        for id_ in part:
            offsets.append(length)
            length += len(detokenizer.push(id_))
        assert token_offsets(tokenizer, part) == offsets
    if tokenizer.decode(ids) == text:
        assert token_offsets(tokenizer, ids) == tokenizer.text_offsets(text)
