"""Hashes of callers' ids."""

from __future__ import annotations

import pytest

from control_plane.caller_hash import CHARACTERS, caller_hash
from control_plane.settings import ServingSettings


def test_a_caller_has_one_hash_for_each_key() -> None:
    assert caller_hash("key:a", "s" * 16) == caller_hash("key:a", "s" * 16)
    assert len({caller_hash(c, k) for c in "ab" for k in (None, "s" * 16, "t" * 16)}) == 6
    assert len(caller_hash("é" * 1000)) == CHARACTERS


def test_the_hash_is_the_same_in_every_release() -> None:
    """Gateways of several releases may share a Triton. The value is that of
    ``printf %s key:a | openssl dgst -sha256 -hmac triad``."""
    assert caller_hash("key:a") == "5812d1eb8854c5f1"


def test_a_key_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="caller_hash_key"):
        ServingSettings.model_validate({"caller_hash_key": "short"})
    key = ServingSettings.model_validate({"caller_hash_key": "k" * 16}).caller_hash_key
    assert key is not None
    assert "kkk" not in repr(key)
