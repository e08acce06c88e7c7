"""How attributes and child spans are compressed: as zstd. Documents of earlier versions hold zlib.

Which of the two it is can be seen from the first bytes.
Why zstd: docs/adr/008-what-a-span-costs-the-receiver.md.
"""

from __future__ import annotations

import threading
import zlib

import zstandard

_LEVEL = 1
_DAMAGED = "compressed bytes are damaged, cut off or too large"


class _Contexts(threading.local):
    """A context serves one thread at a time, and making one costs more than using it."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def compress(data: bytes) -> bytes:
    """`data`, smaller. May run on any thread."""
    return _contexts.compressor.compress(data)


def decompress(data: bytes, *, at_most: int) -> bytes:
    """What `compress` was given, in this version or an earlier one.

    Raises:
        ValueError: these are not such bytes, or more than `at_most` come out of them.
    """
    try:
        if data.startswith(zstandard.FRAME_HEADER):
            if zstandard.frame_content_size(data) > at_most:
                raise ValueError(_DAMAGED)
            return _contexts.decompressor.decompress(data, max_output_size=at_most, allow_extra_data=False)
        inflater = zlib.decompressobj()
        result = inflater.decompress(data, at_most)
    except (zlib.error, zstandard.ZstdError):
        raise ValueError(_DAMAGED) from None
    if not inflater.eof:
        raise ValueError(_DAMAGED)
    return result
