"""Reads the body of an HTTP request within bounds, inflating it as it arrives."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, MutableMapping
from typing import Any, TypeAlias

from collector_receiver.admission import Place
from collector_receiver.refusals import TooLarge, Undecodable

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_GZIP_MEMBERS = 64
INFLATE_BYTES = 262_144  # at a time; then other requests have their turn
MAX_DISCARDED_BYTES = 64 * 1024 * 1024

_GZIP = 31  # zlib's window bits for gzip with a header


class ClientGone(Exception):
    """The connection ended before the body did; there is nobody to answer."""


class IncomingBody:
    """The body of one request as it comes. `complete` once its end was seen."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False

    async def chunks(self) -> AsyncGenerator[bytes]:
        """What has not been taken yet.

        Raises:
            ClientGone: the connection is closed.
        """
        while not self.complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self.complete = not message.get("more_body", False)
            yield message.get("body", b"")

    async def discard_rest(self) -> None:
        """Take what a refused sender still sends, up to a bound: most read no answer before they sent all.

        Raises:
            ClientGone: the connection is closed.
        """
        discarded = 0
        async for chunk in self.chunks():
            discarded += len(chunk)
            if discarded > MAX_DISCARDED_BYTES:
                return


async def read_body(
    incoming: IncomingBody, *, declared_bytes: int | None, gzip: bool, max_bytes: int, place: Place
) -> bytes:
    """The whole body, inflated; it never has more than `max_bytes`, nor more than `place` can have.

    Raises:
        TooLarge, Undecodable, TryAgain: see there. The rest of the body is not read.
        ClientGone: the connection is closed.
    """
    if declared_bytes is not None and declared_bytes > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    inflater = _Inflater() if gzip else None
    received = 0
    async for chunk in incoming.chunks():
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(max_bytes)
        for part in (chunk,) if inflater is None else inflater.parts(chunk):
            body += part
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
            place.grow(len(body))
            if inflater is not None and len(part) >= INFLATE_BYTES:
                await asyncio.sleep(0)
    if inflater is not None:
        inflater.finish()
    return bytes(body)


class _Inflater:
    """gzip, possibly of several members (RFC 1952), a bounded piece at a time."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP)
        self._members = 1
        self._begun = False

    def parts(self, chunk: bytes) -> Generator[bytes]:
        """What `chunk` inflates to, in pieces of at most `INFLATE_BYTES`."""
        while chunk:
            if self._inflater.eof:
                self._members += 1
                if self._members > MAX_GZIP_MEMBERS:
                    raise Undecodable("undecodable", f"gzip of more than {MAX_GZIP_MEMBERS} members")
                self._inflater = zlib.decompressobj(_GZIP)
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


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge("too_large", f"the request has more than {max_bytes} bytes; send smaller batches")
