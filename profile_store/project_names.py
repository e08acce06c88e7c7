"""Names of projects come from `service.name` of any sender, so they are cleaned before they are stored."""

from __future__ import annotations

import unicodedata

MAX_NAME_CHARACTERS = 200

UNKNOWN_SERVICE = "unknown_service"
"""What OpenTelemetry calls a service without a name."""

# Control and surrogate characters, line and paragraph separators; and those that reorder text (Unicode TR
# 36).
_FORBIDDEN_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
_REORDERING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def has_forbidden_characters(text: str) -> bool:
    """Whether a text holds characters that a one-line name must not have."""
    return any(map(_is_forbidden, text))


def is_web_address(text: str) -> bool:
    """Whether a text is one line with an address of the web."""
    return text.lower().startswith(("http://", "https://")) and not has_forbidden_characters(text)


def project_name_of_service(service_name: str) -> str:
    """A valid project name for any `service.name`: forbidden characters become U+FFFD, long names are cut."""
    # Cut first: normalisation of a hostile megabyte would be paid by the receiver.
    cut = service_name[: 4 * MAX_NAME_CHARACTERS].strip()
    clean = "".join("\ufffd" if _is_forbidden(character) else character for character in cut)
    name = unicodedata.normalize("NFC", clean)[:MAX_NAME_CHARACTERS].strip()
    return name or UNKNOWN_SERVICE


def _is_forbidden(character: str) -> bool:
    return character in _REORDERING or unicodedata.category(character) in _FORBIDDEN_CATEGORIES
