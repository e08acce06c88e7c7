"""Trace and span ids of plain records: told, or derived from what makes a repetition recognisable."""

from __future__ import annotations

import hashlib
import os
import re

from profile_store.plain_json.fields import Fields
from profile_store.plain_json.problems import wrong

_TRACE_ID_BYTES = 16
_SPAN_ID_BYTES = 8
_MAX_ID_CHARACTERS = 200

_HEX = re.compile("[0-9a-fA-F]+", re.ASCII)


def ids_of(record: Fields, project_id: str) -> tuple[bytes, bytes]:
    """Trace id and span id of a record.

    A trace id of 32 and a span id of 16 hexadecimal digits are taken as they are; a trace id of another form
    is hashed. Without a span id, the record is known again by its `request_id`, and without that by its
    `trace_id`: the same one from the same project is the same record. With neither, ids are random and a
    repetition is another record.

    Raises:
        BadRecord: `span_id` is given and is none.
    """
    request_id = record.text("request_id", limit=_MAX_ID_CHARACTERS)
    trace = record.text("trace_id", limit=_MAX_ID_CHARACTERS)
    span = record.text("span_id", limit=_MAX_ID_CHARACTERS)
    span_id = _digits(span, _SPAN_ID_BYTES)
    if span and span_id is None:
        raise wrong(record.path("span_id"), span, "send 16 hexadecimal digits, not all zero, or leave it out")
    known_by = request_id or trace
    if not known_by:
        return os.urandom(_TRACE_ID_BYTES), span_id or os.urandom(_SPAN_ID_BYTES)
    trace_id = (
        _digits(trace, _TRACE_ID_BYTES) or _hash("trace", project_id, trace or request_id)[:_TRACE_ID_BYTES]
    )
    return trace_id, span_id or _hash("span", project_id, known_by)[:_SPAN_ID_BYTES]


def _digits(text: str, size: int) -> bytes | None:
    """The bytes of a hexadecimal id; None for anything else, and for zeros, which mean "none"."""
    if len(text) != 2 * size or not _HEX.fullmatch(text):
        return None
    value = bytes.fromhex(text)
    return value if any(value) else None


def _hash(what: str, project_id: str, text: str) -> bytes:
    return hashlib.blake2b(f"{project_id}/{text}".encode(), digest_size=16, person=what.encode()).digest()
