"""Asks an encoder for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from control_plane.errors import InvalidRequest
from control_plane.generation.context_limit import check_rows
from control_plane.inference.client import ModelClient, ask
from control_plane.inference.requests import Embed
from control_plane.inference.responses import Embeddings
from control_plane.models.catalog import Model


class EmbeddingService:
    """The service behind ``/v1/embeddings``."""

    def __init__(self, client: ModelClient, *, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def embed(
        self,
        model: Model,
        request_id: str,
        rows: Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: int | None = None,
        dimensions: int | None = None,
    ) -> Embeddings:
        """Return a vector for each row. ``truncate``: as `Embed` has it. ``dimensions``: how
        many of a vector's first numbers are wanted, then of length 1 again, as Matryoshka models
        are trained for: https://arxiv.org/abs/2205.13147. Raises `TriadError`."""
        whole = model.facts.embedding_dimension or 0
        if dimensions is not None and not 1 <= dimensions <= whole:
            raise InvalidRequest(
                f"dimensions: must be from 1 to {whole}, the model's", param="dimensions"
            )
        check_rows(model, rows, truncated=truncate is not None)
        request = Embed(model.name, request_id, rows, truncate)
        embeddings = await ask(self._client, request, timeout=self._timeout)
        if dimensions is None:
            return embeddings
        return Embeddings(_normalised(embeddings.vectors[:, :dimensions]), embeddings.tokens)


def _normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length 1. Zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalised: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return normalised
