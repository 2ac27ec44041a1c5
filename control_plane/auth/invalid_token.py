"""The error of a token that is not valid."""

from __future__ import annotations


class InvalidToken(Exception):
    """The error of a token that is not valid. ``reason``: for its owner, where there is one that
    says nothing to anybody else."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__("the token is not valid" + (f": {reason}" if reason else ""))
