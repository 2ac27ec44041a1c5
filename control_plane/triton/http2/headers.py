"""Header blocks, each of which can be read without those before it.

Our settings forbid the peer a dynamic table and we use none, so equal blocks say the same on any
connection. That is what lets them be kept: almost all that arrive are one of a few.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple

from control_plane.triton.http2.frames import COMPRESSION_ERROR, ProtocolError

Headers: TypeAlias = dict[bytes, bytes]

_NO_TABLE = b"\x20"
"""A block may begin with a new size of the dynamic table: 0. RFC 7541, 6.3"""


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    literals = [NeverIndexedHeaderTuple(name, value) for name, value in headers]
    return _NO_TABLE + Encoder().encode(literals, huffman=False)


@lru_cache(256)
def decode(block: bytes) -> Headers:
    """Do not change what it returns. Raises `ProtocolError`."""
    decoder = Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    try:
        return dict(decoder.decode(block, raw=True))
    except HPACKError as error:
        raise ProtocolError(COMPRESSION_ERROR, f"a header block cannot be read: {error}") from None
