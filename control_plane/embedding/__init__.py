"""Texts and token ids to vectors: the service that ``/v1/embeddings`` calls."""
