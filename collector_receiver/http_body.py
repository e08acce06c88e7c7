"""Reads the body of an HTTP request within bounds, inflating it as it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from collector_receiver.admission import Place
from collector_receiver.inflating import Inflater, too_large

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_DISCARDED_BYTES = 64 * 1024 * 1024


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
    incoming: IncomingBody, *, declared_bytes: int, gzip: bool, max_bytes: int, place: Place
) -> bytes:
    """The whole body, inflated; it never has more than `max_bytes`, nor more than `place` can have.

    Raises:
        TooLarge, Undecodable, TryAgain: see there. The rest of the body is not read.
        ClientGone: the connection is closed.
    """
    if declared_bytes > max_bytes:
        raise too_large(max_bytes)
    body = bytearray()
    inflater = Inflater() if gzip else None
    received = 0

    def take(part: bytes) -> None:
        body.extend(part)
        if len(body) > max_bytes:
            raise too_large(max_bytes)
        place.grow(len(body))

    async for chunk in incoming.chunks():
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes)
        if inflater is None:
            take(chunk)
        else:
            await inflater.inflate(chunk, take)
    if inflater is not None:
        inflater.finish()
    return bytes(body)
