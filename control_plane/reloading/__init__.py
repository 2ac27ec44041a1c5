"""Other settings while the server runs: read, compared with those in use, and applied."""
