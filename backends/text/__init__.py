"""Text to token ids and back, once for all engines."""
