"""What differs between two settings, key by key: without showing a secret."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar, cast

from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from control_plane.setting_types import Section

SectionT = TypeVar("SectionT", bound=Section)

_CREDENTIALS = re.compile(r"//[^/\s]*@")
"""A name and a password in an address."""


def values(section: Section, path: str = "serving") -> Iterator[tuple[str, Any]]:
    """Yield each key with its value, by its dotted path. A list or a mapping is one value."""
    for name in type(section).model_fields:
        key, value = f"{path}.{name}", getattr(section, name)
        if isinstance(value, Section):
            yield from values(value, key)
        else:
            yield key, value


def changed(before: Section, after: Section) -> list[str]:
    """Return the keys whose values differ."""
    old = dict(values(before))
    return [key for key, value in values(after) if old[key] != value]


def with_kept(
    after: SectionT, before: SectionT, kept: Collection[str], path: str = "serving"
) -> SectionT:
    """Return ``after``, with the values of ``before`` for the keys in ``kept``."""
    fields: dict[str, Any] = {}
    given: set[str] = set()
    for name in type(after).model_fields:
        key, old, new = f"{path}.{name}", getattr(before, name), getattr(after, name)
        source = before if key in kept else after
        is_section = isinstance(new, Section)
        fields[name] = with_kept(new, old, kept, key) if is_section else getattr(source, name)
        if name in source.model_fields_set:
            given.add(name)
    return cast(SectionT, type(after).model_construct(given, **fields))


def shown(section: Section, salt: bytes) -> Mapping[str, Any]:
    """Return each key with its value as JSON has it. A secret is shown as a digest, slow to
    compute, so that two can be compared and none can be read. ``salt``: of the digests."""
    return {key: _shown(value, salt) for key, value in values(section)}


def _shown(value: object, salt: bytes) -> object:
    if isinstance(value, SecretStr):
        return _digest(value.get_secret_value(), salt)
    if isinstance(value, str) and _CREDENTIALS.search(value):
        return _digest(value, salt)
    return to_jsonable_python(value)


def _digest(secret: str, salt: bytes) -> dict[str, str]:
    # 16 MiB and some 50 ms: a weak secret is not to be guessed quickly.
    digest = hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1, dklen=16)
    return {"secret": digest.hex()}
