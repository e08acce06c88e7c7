"""Typed reading of attributes that any sender may have filled with anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from profile_store.model import Attributes

_MAX_TEXT_CHARACTERS = 4_096
# Longer digit strings are no counts, and parsing them is slow.
_MAX_DIGITS = 18


def text(attributes: Attributes, *names: str) -> str:
    """The first of the named attributes that is a text with content, cut; else ""."""
    for name in names:
        value = attributes.get(name)
        if isinstance(value, str) and value:
            return value[:_MAX_TEXT_CHARACTERS]
    return ""


def integer(attributes: Attributes, *names: str) -> int | None:
    """The first of the named attributes that is a 64-bit whole number, maybe written as text; else None."""
    for name in names:
        value = attributes.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            return value
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
            return int(value)
    return None


def joined_text(value: object) -> str:
    """A header's values as one text; instrumentations send a list or a single text."""
    if isinstance(value, str):
        return value[:_MAX_TEXT_CHARACTERS]
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        items = cast("Sequence[object]", value)
        return ", ".join(item for item in items if isinstance(item, str))[:_MAX_TEXT_CHARACTERS]
    return ""
