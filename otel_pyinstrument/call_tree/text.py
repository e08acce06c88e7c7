"""Function and file names on their way into and out of a payload."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ELLIPSIS = "…"


def printable(text: str) -> str:
    r"""Control characters and lone surrogates written as `\x00` or `\udc80`; everything else as it is.

    The result is valid in UTF-8, BSON, protobuf and HTML, and doing it twice changes nothing.
    """
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"


def cut_end(text: str, max_bytes: int) -> str:
    """`text` in at most `max_bytes` of UTF-8 (3 or more), its end replaced by `…` when it is longer."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS


def cut_start(text: str, max_bytes: int) -> str:
    """Like `cut_end`, but the start goes: the end of a path says more."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return _ELLIPSIS + encoded[len(encoded) - max_bytes + len(_ELLIPSIS.encode()) :].decode(errors="ignore")
