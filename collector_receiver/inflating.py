"""Inflates bodies of requests: a bounded piece at a time, and never more than may be in flight."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Generator

from collector_receiver.admission import Place
from collector_receiver.refusals import TooLarge, Undecodable

MAX_GZIP_MEMBERS = 64
INFLATE_BYTES = 262_144  # of output at a time; then other requests have their turn
SLICE_BYTES = 16_384  # of input, for the same reason: at worst it takes a millisecond

_GZIP_BITS = 31  # zlib's window bits for gzip with a header
_ANY_BITS = 47  # of gzip or zlib
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

    async def inflate(self, chunk: bytes, take: Callable[[bytes], None]) -> None:
        """Hand what `chunk` inflates to over to `take`, in pieces of at most `INFLATE_BYTES`.

        Between them, and after each `SLICE_BYTES` of input, others have their turn: blocks that inflate to
        nothing take as long as those that inflate to much.
        """
        for start in range(0, len(chunk), SLICE_BYTES):
            if start:
                await asyncio.sleep(0)
            for part in self._parts(chunk[start : start + SLICE_BYTES]):
                take(part)
                if len(part) >= INFLATE_BYTES:
                    await asyncio.sleep(0)

    def _parts(self, chunk: bytes) -> Generator[bytes]:
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
    """A protobuf message, or what is compressed by gzip or zlib in its place; `place` grows with both.

    gRPC can inflate by itself, but calls damage INTERNAL, and does it before anything is admitted. It does
    not hand over the name of the compression; what the bytes begin with tells.

    Raises:
        TooLarge, Undecodable, TryAgain: see there.
    """
    is_gzip = body.startswith(_GZIP_MAGIC)
    if not is_gzip and not _is_zlib(body):
        return body
    inflater = Inflater(_GZIP_BITS if is_gzip else zlib.MAX_WBITS)
    whole = bytearray()
    place.grow(len(body))

    def take(part: bytes) -> None:
        whole.extend(part)
        if len(whole) > max_bytes:
            raise too_large(max_bytes)
        place.grow(len(body) + len(whole))

    try:
        await inflater.inflate(body, take)
        inflater.finish()
    except Undecodable:
        if is_gzip or whole:
            raise
        return body  # a message may begin with a field that looks like zlib
    return bytes(whole)


def inflated_if_small(body: bytes) -> bytes:
    """The same for a message of some bytes at most, without a room of its own. Others stay as they are."""
    if len(body) > _SMALL_BYTES or not (body.startswith(_GZIP_MAGIC) or _is_zlib(body)):
        return body
    try:
        return zlib.decompressobj(_ANY_BITS).decompress(body, _SMALL_BYTES)
    except zlib.error:
        return body


def _is_zlib(body: bytes) -> bool:
    """RFC 1950: deflate with a window of 32 KiB, and a check of these two bytes."""
    return len(body) >= 2 and body[0] == _ZLIB_FIRST and int.from_bytes(body[:2], "big") % 31 == 0


def too_large(max_bytes: int) -> TooLarge:
    """The refusal of a body of more than that, inflated."""
    return TooLarge("too_large", f"the request has more than {max_bytes} bytes; send smaller batches")
