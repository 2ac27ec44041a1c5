"""Compressed values that are small for what they unpack to."""

from __future__ import annotations

import zlib

MEBIBYTE = 2**20
_HEADER, _LAST_BLOCK = b"\x78\x9c", b"\x03\x00"
_ADLER = 65_521


def repeated(byte: bytes, mebibytes: int) -> bytes:
    """Return what zlib unpacks to one byte so many times.

    One MiB is compressed and its blocks are repeated: to compress a GiB takes seconds.
    https://www.rfc-editor.org/rfc/rfc1950
    """
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    blocks = packer.compress(byte * MEBIBYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    size = mebibytes * MEBIBYTE
    low = (1 + size * byte[0]) % _ADLER
    high = (size + byte[0] * size * (size + 1) // 2) % _ADLER
    checksum = (high << 16 | low).to_bytes(4, "big")
    return _HEADER + blocks * mebibytes + _LAST_BLOCK + checksum
