"""Counts the messages in protobuf bytes before protobuf itself makes objects of them.

An empty message takes two bytes on the wire and up to 174 bytes of memory (a span, measured), so 16 MiB may
become 1.4 GB. Real requests hold a message per 15 bytes or more. The scan reads tags and lengths only and
skips texts and payloads, so its cost goes with the number of fields and not of bytes.

Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

MAX_MESSAGES = 1_000_000
MIN_MESSAGE_BYTES = 2  # tag and length
MAX_LEVELS = 100  # protobuf's own limit

LENGTH_DELIMITED = 2
_MAX_VARINT_BYTES = 10

_Table: TypeAlias = "dict[int, _Table]"


class Malformed(Exception):
    """No protobuf, or such as no OTLP exporter writes (groups, nesting beyond protobuf's limit)."""


class TooManyMessages(Exception):
    """More messages than any real request has."""


def check_messages(kind: type[Message], body: bytes, *, limit: int = MAX_MESSAGES) -> None:
    """Return when `body`, a message of type `kind`, holds at most `limit` messages within it.

    Counts at least what protobuf would make objects of: also what a later field overwrites.

    Raises:
        TooManyMessages, Malformed: and nothing else, for any bytes whatsoever.
    """
    if len(body) >= MIN_MESSAGE_BYTES * limit:
        count_messages(kind, body, limit=limit)


def count_messages(kind: type[Message], body: bytes, *, limit: int) -> int:
    """How many messages are within `body`, at most `limit`.

    Raises:
        TooManyMessages, Malformed: as above.
    """
    try:
        return _scan(body, _table(kind.DESCRIPTOR), limit)
    except IndexError:
        raise Malformed from None


@cache
def _table(descriptor: Descriptor) -> _Table:
    """For each message: the tags of its fields that are messages, with the table of those."""
    return _build(descriptor, {})


def _build(descriptor: Descriptor, known: dict[str, _Table]) -> _Table:
    table = known.get(descriptor.full_name)
    if table is None:
        table = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                table[field.number << 3 | LENGTH_DELIMITED] = _build(field.message_type, known)
    return table


def _scan(body: bytes, table: _Table, limit: int) -> int:
    """One loop without calls for what is usual, as it runs for every field of a large request."""
    position, end, count = 0, len(body), 0
    outer: list[tuple[_Table, int]] = []
    while True:
        while position == end:
            if not outer:
                return count
            table, end = outer.pop()
        tag = body[position]
        position += 1
        if tag > 127:
            tag, position = read_varint(body, position - 1)
        kind = tag & 7
        if kind == LENGTH_DELIMITED:
            length = body[position]
            position += 1
            if length > 127:
                length, position = read_varint(body, position - 1)
            stop = position + length
            if stop > end or tag < 8:
                raise Malformed
            inner = table.get(tag)
            if inner is None:
                position = stop
                continue
            count += 1
            if count > limit:
                raise TooManyMessages
            if length:
                _enter(outer, table, end)
                table, end = inner, stop
        else:
            position = skip_number(body, position, tag)
            if position > end:
                raise Malformed


def _enter(outer: list[tuple[_Table, int]], table: _Table, end: int) -> None:
    if len(outer) == MAX_LEVELS:
        raise Malformed
    outer.append((table, end))


def skip_number(body: bytes, position: int, tag: int) -> int:
    """The position behind a number of the type in `tag`. Groups are no part of proto3.

    Raises:
        Malformed, IndexError: there is none.
    """
    if tag < 8:
        raise Malformed
    match tag & 7:
        case 0:
            return read_varint(body, position)[1]
        case 1:
            return position + 8
        case 5:
            return position + 4
        case _:
            raise Malformed


def read_varint(body: bytes, position: int) -> tuple[int, int]:
    """The number that begins at `position`, and where it ends.

    Raises:
        Malformed, IndexError: there is none.
    """
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = body[position + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, position + index + 1
    raise Malformed
