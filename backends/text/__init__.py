"""Conversion between text and token ids, for all engines."""
