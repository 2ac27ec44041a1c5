"""Asks an encoder for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest

from control_plane.embedding.codec import Embeddings, embedding_request, embeddings
from control_plane.errors import EngineFailed, InvalidRequest
from control_plane.generation.context_limit import check_rows
from control_plane.models.catalog import Model
from control_plane.triton.client import TritonClient
from control_plane.triton.codec import unique_id


class EmbeddingService:
    def __init__(self, client: TritonClient, *, timeout: float) -> None:
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
        """A vector for each row. ``truncate``: as `embedding_request` has it. ``dimensions``: how
        many of a vector's first numbers are wanted, then of length 1 again, as Matryoshka models
        are trained for: https://arxiv.org/abs/2205.13147. Raises `TriadError`."""
        whole = model.facts.embedding_dimension or 0
        if dimensions is not None and not 1 <= dimensions <= whole:
            raise InvalidRequest(
                f"dimensions: must be from 1 to {whole}, the model's", param="dimensions"
            )
        check_rows(model, rows, truncated=truncate is not None)
        message = embedding_request(model.name, unique_id(request_id), rows, truncate)
        made = await self._ask(message)
        if dimensions is None:
            return made
        return Embeddings(_normalised(made.vectors[:, :dimensions]), made.tokens)

    async def _ask(self, message: ModelInferRequest) -> Embeddings:
        stream = self._client.infer(message, timeout=self._timeout)
        made: Embeddings | None = None
        try:
            async for responses in stream:
                for response in responses:
                    made = embeddings(response)
        finally:
            stream.cancel()
        if made is None:
            raise EngineFailed("the model ended the stream early")
        return made


def _normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    made: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return made
