"""Hides what looks like a secret, by the name that it stands under. In the application and on the platform.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

MASK = "***"

_SECRET_NAME = re.compile(
    r"auth|cookie|token|secret|passw|pwd|passphrase|api[-_]?key|session|signature|credential|csrf|xsrf|jwt"
    r"|(^|[-_.])(key|pin|sid|sig|otp|code)$",
    re.IGNORECASE,
)
_MAX_URL_CHARACTERS = 2_048


def is_secret(name: str) -> bool:
    """Whether a header or parameter of this name may hold a secret: better one too many."""
    return _SECRET_NAME.search(name[:200]) is not None


def masked(name: str, value: str) -> str:
    """The value, or the mask when the name looks like a secret's."""
    return MASK if value and is_secret(name) else value


def query_pairs(query: str) -> list[tuple[str, str]]:
    """Names and values of a query string, in order, secrets masked."""
    pairs = parse_qsl(query[:_MAX_URL_CHARACTERS], keep_blank_values=True)
    return [(name, masked(name, value)) for name, value in pairs]


def masked_url(url: str) -> str:
    """An address without user name, password and fragment, with secrets masked; "" when unreadable."""
    try:
        parts = urlsplit(url[:_MAX_URL_CHARACTERS])
    except ValueError:
        return ""
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, netloc, parts.path, _query(query_pairs(parts.query)), ""))


def _query(pairs: Iterable[tuple[str, str]]) -> str:
    return urlencode(list(pairs), safe="*/:,")
