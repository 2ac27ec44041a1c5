"""``/v1/completions``: fields, streams and whole answers."""
