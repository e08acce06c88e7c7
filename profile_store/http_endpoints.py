"""What every way in must agree on about endpoints of HTTP: methods, and names that come from a path."""

from __future__ import annotations

from profile_store.model import EndpointOrigin

# RFC 9110, PATCH and QUERY as the semantic conventions have them, then WebDAV, UPnP and caches. Others count
# as `_OTHER`: the method is a part of the endpoint's name, and anyone may send any word.
METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
    | {"COPY", "LOCK", "M-SEARCH", "MKCALENDAR", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "PURGE"}
    | {"REPORT", "SEARCH", "UNLOCK"}
)
OTHER_METHOD = "_OTHER"


def known_method(method: str) -> str:
    """`method` in capitals, `_OTHER` for a word that HTTP does not know, "" for none."""
    method = method.upper()
    return method if not method or method in METHODS else OTHER_METHOD


def origin_by_path(status_code: int | None) -> EndpointOrigin:
    """Who decided the name of an endpoint that was made from the path of a request.

    A client error says nothing about an endpoint: scanners live on 404.
    """
    return "unmatched" if 400 <= (status_code or 0) < 500 else "path"
