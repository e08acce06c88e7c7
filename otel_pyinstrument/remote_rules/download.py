"""One request to the platform, which may be away, slow or hostile."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO, NamedTuple
from urllib.parse import quote

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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead the project key to another host."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        return None


def rules_address(platform_url: str, project_key: str) -> str:
    """Where the project's rules are."""
    return f"{platform_url}/api/v1/projects/{quote(project_key, safe='')}/config"


def download(address: str, etag: str) -> Answer:
    """The rules at `address` if they are not those of `etag`. Blocks; for the poller's thread.

    Uses neither proxies nor cookies, follows no redirect, reads a bounded body in a bounded time.

    Raises:
        DownloadFailed: anything but 200 with a body, or 304.
    """
    headers = {"Accept": "application/json", "User-Agent": f"otel-pyinstrument/{__version__}"}
    if etag:
        headers["If-None-Match"] = etag
    end = time.monotonic() + _TOTAL_SECONDS
    try:
        # The settings admit http and https only.
        request = urllib.request.Request(address, headers=headers)  # noqa: S310 - see above
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
        with opener.open(request, timeout=_SOCKET_SECONDS) as response:
            if response.status != 200:
                raise DownloadFailed(f"it answered {response.status}")
            return Answer(_read(response, end), _harmless(response.headers.get("ETag")))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 304 and etag:
            return Answer(None, etag)
        raise DownloadFailed(f"it answered {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadFailed(type(reason).__name__) from None


def _read(response: IO[bytes], end: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := _read_some(response):
        size += len(chunk)
        chunks.append(chunk)
        if size > MAX_BYTES:
            raise DownloadFailed(f"it sent more than {MAX_BYTES} bytes")
        if time.monotonic() > end:
            raise DownloadFailed(f"it took longer than {_TOTAL_SECONDS:g} seconds")
    return b"".join(chunks)


def _read_some(response: IO[bytes]) -> bytes:
    # read(n) would wait for n bytes, however slowly they drip in.
    read1 = getattr(response, "read1", response.read)
    return read1(_CHUNK_BYTES)


def _harmless(etag: str | None) -> str:
    if etag is None or len(etag) > _MAX_ETAG_CHARACTERS or not etag.isprintable() or not etag.isascii():
        return ""
    return etag
