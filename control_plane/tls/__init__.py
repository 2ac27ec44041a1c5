"""TLS: its settings, the contexts made of them, and why a connection could not be made.

`settings` says which files there are, `contexts` reads them, `reloading` reads them again when they
have changed, and `reasons` puts what went wrong into words.
"""
