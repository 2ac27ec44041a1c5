"""Questions that generate no answer, and embeddings, with a model client in memory."""

from __future__ import annotations

import numpy as np
import pytest

from control_plane.errors import ContextLengthExceeded, EngineFailed, InvalidRequest
from control_plane.generation.embedding import EmbeddingService
from control_plane.generation.inspection import InspectionService
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import (
    Attribute,
    DescribeTokenizer,
    Detokenize,
    Embed,
    Profile,
    Tokenize,
)
from control_plane.inference.responses import Embeddings, Tokens
from control_plane.models.catalog import Catalog, Model
from tests.support.gateway import fake_client

TOKENS = Tokens([1, 2], ["a", "b"], ["a", "b"])


async def opened(
    client: FakeModelClient,
) -> tuple[Model, InspectionService, EmbeddingService]:
    catalog = Catalog(client, "demo", timeout=1, on_unhealthy=lambda _: None)
    await catalog.refresh()
    services = InspectionService(client, timeout=5), EmbeddingService(client, timeout=5)
    return catalog.ready(None), *services


async def test_each_question_is_passed_on() -> None:
    client = fake_client()
    client.on(Tokenize, lambda _: [TOKENS])
    client.on(Detokenize, lambda _: ["text"])
    client.on(DescribeTokenizer, lambda _: [{"tokenizer_class": "X"}])
    client.on(Attribute, lambda _: [{"prompt_tokens": []}])
    client.on(Profile, lambda _: [b"trace"])
    model, inspection, _ = await opened(client)
    assert await inspection.tokenize(model, "1", "ab", offsets=True) == TOKENS
    assert Tokenize("demo", "1", "ab", offsets=True) in client.requests
    assert await inspection.detokenize(model, "1", [1, 2]) == "text"
    assert await inspection.tokenizer_info(model, "1") == {"tokenizer_class": "X"}
    assert await inspection.attribute(model, "1", "ab", None) == {"prompt_tokens": []}
    assert await inspection.profile(model, "1", "ab", {"max_tokens": 2}) == b"trace"
    assert Profile("demo", "1", "ab", {"max_tokens": 2}) in client.requests


async def test_no_response_is_an_error() -> None:
    client = fake_client()
    client.on(Tokenize, lambda _: [])
    model, inspection, _ = await opened(client)
    with pytest.raises(EngineFailed, match="ended the stream early"):
        await inspection.tokenize(model, "1", "ab")
    assert client.streams[-1].cancelled


async def test_lengths_are_checked_before_anything_is_sent() -> None:
    client = fake_client(context_length=4, characters_per_token=2, tokenize_length=6)
    model, inspection, _ = await opened(client)
    before = len(client.requests)
    with pytest.raises(InvalidRequest, match="at most 12 characters, not 13"):
        await inspection.tokenize(model, "1", "x" * 13)
    with pytest.raises(ContextLengthExceeded):
        await inspection.tokenize(model, "1", "x" * 9, must_fit=True)
    with pytest.raises(InvalidRequest, match="at most 6 tokens, not 7"):
        await inspection.detokenize(model, "1", [1] * 7)
    with pytest.raises(ContextLengthExceeded):
        await inspection.attribute(model, "1", "x", "y" * 9)
    assert len(client.requests) == before


async def test_embeddings_are_cut_to_their_dimensions() -> None:
    client = fake_client(type="embedding", embedding_dimension=4, characters_per_token=2)
    vectors = np.array([[3, 4, 5, 6], [0, 0, 1, 1]], np.float32)
    client.on(Embed, lambda _: [Embeddings(vectors, 9)])
    model, _, embedding = await opened(client)
    whole = await embedding.embed(model, "1", ["a", "b"])
    assert whole.tokens == 9
    assert whole.vectors.tolist() == vectors.tolist()
    cut = await embedding.embed(model, "1", ["a", "b"], dimensions=2)
    assert cut.vectors.tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]
    for dimensions in (0, 5):
        with pytest.raises(InvalidRequest, match="from 1 to 4"):
            await embedding.embed(model, "1", ["a"], dimensions=dimensions)
    with pytest.raises(ContextLengthExceeded):
        await embedding.embed(model, "1", ["x" * 5000])
    await embedding.embed(model, "1", ["x" * 5000], truncate=-1)
    assert client.requests[-1] == Embed("demo", "1", ["x" * 5000], -1)
    with pytest.raises(ContextLengthExceeded):
        await embedding.embed(model, "1", [[1] * 2000])
