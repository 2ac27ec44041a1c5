"""``/v1/chat/completions``: fields, messages, streams and whole answers."""
