from __future__ import annotations

import random

from backends.encoder.batching import padded_length, plan


def test_padding_is_a_quarter_at_most_and_lengths_are_few() -> None:
    lengths = {padded_length(tokens, 8192) for tokens in range(1, 8193)}
    assert len(lengths) < 40
    for tokens in range(32, 8193):
        assert tokens <= padded_length(tokens, 8192) <= 1.25 * tokens
    assert [padded_length(tokens, 100) for tokens in (1, 8, 9, 97, 100)] == [8, 8, 16, 100, 100]


def test_every_text_is_in_one_batch_that_holds_it() -> None:
    generator = random.Random(0)
    for _ in range(200):
        lengths = [generator.randint(1, 512) for _ in range(generator.randint(1, 40))]
        batches = plan(lengths, 8, 512)
        texts = [text for batch in batches for text in batch.texts]
        assert sorted(texts) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch.texts) <= 8
            assert max(lengths[text] for text in batch.texts) <= batch.length <= 512


def test_one_long_text_does_not_lengthen_all() -> None:
    assert [batch.length for batch in plan([5] * 6 + [500], 8, 512)] == [512, 8]


def test_texts_of_like_length_go_together() -> None:
    assert [batch.texts for batch in plan([30, 40, 50], 8, 512)] == [(2, 1, 0)]
