"""Function and file names on their way into and out of a payload."""

from __future__ import annotations

import re
from collections.abc import Collection

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ELLIPSIS = "…"
_AS_THEY_ARE_IN_JSON = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')


def printable(text: str) -> str:
    r"""Control characters and lone surrogates written as `\x00` or `\udc80`; everything else as it is.

    The result is valid in UTF-8, BSON and protobuf, and doing it twice changes nothing.
    """
    return _UNPRINTABLE.sub(_escape, text)


def _is_plain(text: str, max_bytes: int) -> bool:
    """Nearly all names are: for them this is a tenth of the work."""
    return len(text) <= max_bytes and text.isascii() and text.isprintable()


def is_plain_in_json(texts: Collection[str], max_bytes: int) -> bool:
    """Whether all are short, and ASCII that JSON holds as it is. One question instead of one per text."""
    text = "".join(texts)
    return (
        text.isascii()
        and not text.encode().translate(None, _AS_THEY_ARE_IN_JSON)
        and max(map(len, texts), default=0) <= max_bytes
    )


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def bounded_name(text: str, max_bytes: int) -> str:
    """`text` printable in at most `max_bytes` of UTF-8 (3 or more); `…` stands for the end that was cut."""
    if _is_plain(text, max_bytes):
        return text
    encoded = printable(text[: max_bytes + 1]).encode()
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS


def bounded_path(text: str, max_bytes: int) -> str:
    """Like `bounded_name`, but the start is cut: the end of a path says more."""
    if _is_plain(text, max_bytes):
        return text
    encoded = printable(text[-max_bytes - 1 :]).encode()
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return _ELLIPSIS + encoded[len(encoded) - max_bytes + len(_ELLIPSIS.encode()) :].decode(errors="ignore")
