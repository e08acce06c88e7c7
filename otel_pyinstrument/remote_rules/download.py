"""One request to the platform, which may be away, slow or hostile."""

from __future__ import annotations

import io
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import socket
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from otel_pyinstrument.remote_rules.rules import MAX_BYTES
from otel_pyinstrument.version import __version__

_SOCKET_SECONDS = 5.0
_TOTAL_SECONDS = 10.0
_CHUNK_BYTES = 16_384
_MAX_ETAG_CHARACTERS = 200


class DownloadFailed(Exception):
    """No answer that could be used; the message says why, without the key."""


class Answer(NamedTuple):
    """`body` is None when nothing has changed since `etag`."""

    body: bytes | None
    etag: str


class _BoundedReader(io.RawIOBase):
    """What comes over a connection until `end`, by the monotonic clock.

    The timeout of a socket begins anew with each byte, and a hostile platform may send one now and then.
    """

    def __init__(self, connection: socket, end: float) -> None:
        self._connection = connection
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left_seconds = self._end - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError
        self._connection.settimeout(min(left_seconds, _SOCKET_SECONDS))
        return self._connection.recv_into(buffer)


class _BoundedResponse(HTTPResponse):
    """Its head, too, has to be there by `end`."""

    def __init__(self, connection: socket, end: float) -> None:
        super().__init__(connection)
        self.fp.close()
        self.fp = io.BufferedReader(_BoundedReader(connection, end))


def rules_address(platform_url: str, project_key: str) -> str:
    """Where the project's rules are."""
    return f"{platform_url}/api/v1/projects/{quote(project_key, safe='')}/config"


def download(address: str, etag: str) -> Answer:
    """The rules at `address` if they are not those of `etag`. Blocks; for the poller's thread.

    Uses neither proxies nor cookies, follows no redirect (it could lead the project key to another host),
    reads a bounded body in a bounded time.

    Raises:
        DownloadFailed: anything but 200 with a body, or 304.
    """
    headers = {
        "Accept": "application/json",
        "Connection": "close",
        "User-Agent": f"otel-pyinstrument/{__version__}",
    }
    if etag:
        headers["If-None-Match"] = etag
    end = time.monotonic() + _TOTAL_SECONDS
    try:
        with closing(_connection(address)) as connection:
            connection.request("GET", urlsplit(address).path, headers=headers)
            with _BoundedResponse(connection.sock, end) as response:
                response.begin()
                if response.status == 304 and etag:
                    return Answer(None, etag)
                if response.status != 200:
                    raise DownloadFailed(f"it answered {response.status}")
                return Answer(_read(response), _harmless(response.headers.get("ETag")))
    except (OSError, HTTPException, ValueError) as error:
        if time.monotonic() >= end:
            raise DownloadFailed(f"it took longer than {_TOTAL_SECONDS:g} seconds") from None
        raise DownloadFailed(type(error).__name__) from None


def _connection(address: str) -> HTTPConnection:
    # The settings admit http and https only.
    parts = urlsplit(address)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    # With a port of None the last part of an IPv6 address would be taken for one.
    return kind(parts.hostname or "", parts.port or kind.default_port, timeout=_SOCKET_SECONDS)


def _read(response: HTTPResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    # `read` would wait for so many bytes, however slowly they drip in.
    while chunk := response.read1(_CHUNK_BYTES):
        size += len(chunk)
        chunks.append(chunk)
        if size > MAX_BYTES:
            raise DownloadFailed(f"it sent more than {MAX_BYTES} bytes")
    return b"".join(chunks)


def _harmless(etag: str | None) -> str:
    if etag is None or len(etag) > _MAX_ETAG_CHARACTERS or not etag.isprintable() or not etag.isascii():
        return ""
    return etag
