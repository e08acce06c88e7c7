"""Inflates bodies of requests: a bounded piece at a time, and never more than may be in flight."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Generator

from collector_receiver.admission import Place
from collector_receiver.refusals import TooLarge, Undecodable

MAX_GZIP_MEMBERS = 64
INFLATE_BYTES = 262_144  # at a time; then other requests have their turn

_GZIP_BITS = 31  # zlib's window bits for gzip with a header
_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952; no protobuf message begins so: there is no wire type 7
_ZLIB_FIRST = 0x78
_SMALL_BYTES = 4_096


class Inflater:
    """gzip (or zlib), possibly of several members (RFC 1952), a bounded piece at a time."""

    def __init__(self, window_bits: int = _GZIP_BITS) -> None:
        self._window_bits = window_bits
        self._inflater = zlib.decompressobj(window_bits)
        self._members = 1
        self._begun = False

    def parts(self, chunk: bytes) -> Generator[bytes]:
        """What `chunk` inflates to, in pieces of at most `INFLATE_BYTES`."""
        while chunk:
            if self._inflater.eof:
                self._members += 1
                if self._members > MAX_GZIP_MEMBERS:
                    raise Undecodable("undecodable", f"gzip of more than {MAX_GZIP_MEMBERS} members")
                self._inflater = zlib.decompressobj(self._window_bits)
            self._begun = True
            try:
                yield self._inflater.decompress(chunk, INFLATE_BYTES)
            except zlib.error:
                raise Undecodable("undecodable", "the body is no gzip, or damaged") from None
            chunk = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail

    def finish(self) -> None:
        """Raises Undecodable when the last member was cut off. An empty body is an empty message."""
        if self._begun and not self._inflater.eof:
            raise Undecodable("undecodable", "the gzip body is cut off")


async def inflated(body: bytes, *, max_bytes: int, place: Place) -> bytes:
    """A protobuf message, or what is compressed by gzip or zlib in its place; `place` grows with it.

    gRPC can inflate by itself, but calls damage INTERNAL, and does it before anything is admitted. It does
    not hand over the name of the compression; what the bytes begin with tells.

    Raises:
        TooLarge, Undecodable, TryAgain: see there.
    """
    if body.startswith(_GZIP_MAGIC):
        return await _all_parts(Inflater(), body, max_bytes, place)
    if _is_zlib(body):
        try:
            return await _all_parts(Inflater(zlib.MAX_WBITS), body, max_bytes, place)
        except Undecodable:
            return body  # a message may begin with a field that looks like it
    return body


def inflated_if_small(body: bytes) -> bytes:
    """The same for a message of some bytes, without a room of its own; what is longer is cut off."""
    if not body.startswith(_GZIP_MAGIC):
        return body
    try:
        return zlib.decompressobj(_GZIP_BITS).decompress(body, _SMALL_BYTES)
    except zlib.error:
        return body


async def _all_parts(inflater: Inflater, body: bytes, max_bytes: int, place: Place) -> bytes:
    whole = bytearray()
    for part in inflater.parts(body):
        whole += part
        if len(whole) > max_bytes:
            raise too_large(max_bytes)
        place.grow(len(whole))
        if len(part) >= INFLATE_BYTES:
            await asyncio.sleep(0)
    inflater.finish()
    return bytes(whole)


def _is_zlib(body: bytes) -> bool:
    """RFC 1950: deflate with a window of 32 KiB, and a check of these two bytes."""
    return len(body) >= 2 and body[0] == _ZLIB_FIRST and int.from_bytes(body[:2], "big") % 31 == 0


def too_large(max_bytes: int) -> TooLarge:
    """The refusal of a body of more than that, inflated."""
    return TooLarge("too_large", f"the request has more than {max_bytes} bytes; send smaller batches")
