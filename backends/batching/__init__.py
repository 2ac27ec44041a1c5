"""Continuous batching: which tokens of which sequences are computed next, for any model."""
