"""Function and file names on their way into and out of a payload."""

from __future__ import annotations

import re

_CONTROL = (*range(0x20), *range(0x7F, 0xA0))
_SURROGATES = range(0xD800, 0xE000)
_ESCAPES = {code: f"\\x{code:02x}" for code in _CONTROL} | {code: f"\\u{code:04x}" for code in _SURROGATES}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ELLIPSIS = "…"


def printable(text: str) -> str:
    r"""Control characters and lone surrogates written as `\x00` or `\udc80`; everything else as it is.

    The result is valid in UTF-8, BSON and protobuf, and doing it twice changes nothing.
    """
    return text.translate(_ESCAPES) if _UNPRINTABLE.search(text) else text


def bounded_name(text: str, max_bytes: int) -> str:
    """`text` printable in at most `max_bytes` of UTF-8 (3 or more); `…` stands for the end that was cut."""
    encoded = printable(text[: max_bytes + 1]).encode()
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS


def bounded_path(text: str, max_bytes: int) -> str:
    """Like `bounded_name`, but the start is cut: the end of a path says more."""
    encoded = printable(text[-max_bytes - 1 :]).encode()
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return _ELLIPSIS + encoded[len(encoded) - max_bytes + len(_ELLIPSIS.encode()) :].decode(errors="ignore")
