"""Sizes of the tests' encoders, for tests that do without PyTorch until they run."""

from __future__ import annotations

CONTEXT = 128
DIMENSION = 48
