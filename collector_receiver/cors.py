"""Which web pages may send over OTLP/HTTP (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

Headers: TypeAlias = "tuple[tuple[bytes, bytes], ...]"

ALLOWED_HEADERS = b"content-type, content-encoding, x-project-key"
PREFLIGHT_SECONDS = 7_200  # how long a browser may remember; Chromium's own maximum
_EXPOSED = (b"access-control-expose-headers", b"retry-after")


class Cors:
    """Answers browsers about origins. Credentials (cookies) are never part of it."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    def headers(self, origin: str) -> Headers:
        """What an answer to a page of `origin` carries; "" is no browser. Nothing where it is not allowed."""
        if not self._origins:
            return ()
        vary = (b"vary", b"origin")
        if "*" in self._origins:
            return ((b"access-control-allow-origin", b"*"), _EXPOSED) if origin else ()
        if origin.lower() not in self._origins:
            return (vary,)  # a cache must not hand this answer to pages of other origins
        return ((b"access-control-allow-origin", origin.encode("latin-1")), _EXPOSED, vary)

    def preflight(self, origin: str) -> Headers | None:
        """What a browser is told that asks beforehand; None when it must not send."""
        headers = self.headers(origin)
        if _EXPOSED not in headers:
            return None
        return (
            *headers,
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", ALLOWED_HEADERS),
            (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
        )
