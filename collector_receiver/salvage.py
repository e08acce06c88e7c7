"""Reads what can be read of protobuf bytes that protobuf itself refuses as a whole.

One wrong byte in one text makes protobuf refuse a request, although its frame is sound: exporters written in
C++, PHP or Rust do not check texts, and Collectors pass on what they got, together with the spans of others.
Texts get U+FFFD for what is no UTF-8. What still cannot be read is replaced by an empty span (or log record),
which the translation refuses by name. Only runs when protobuf has failed, and in time linear in the bytes.

A message is counted before it is made, also the empty ones in the place of lost ones: see `wire_scan`.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from typing import Any, TypeAlias, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from collector_receiver.wire_scan import (
    LENGTH_DELIMITED,
    MAX_LEVELS,
    MAX_MESSAGES,
    MIN_MESSAGE_BYTES,
    Malformed,
    TooManyMessages,
    count_messages,
    read_varint,
    skip_number,
)
from collector_receiver.wire_writing import varint

MAX_PARTS = 262_144
"""Resources, scopes and items, each of which takes some microseconds here. Fewer are stored of a request."""

Request = TypeVar("Request", bound=Message)

# For each message: the tags of its texts (None) and of its messages (their own table).
_Texts: TypeAlias = "dict[int, _Texts | None]"

# ExportTraceServiceRequest and ExportLogsServiceRequest are built alike: resources (1), each with its
# attributes (1) and scopes (2), each with its name (1) and items (2). Addresses of schemas (3) are not used.
_FIRST = 1 << 3 | LENGTH_DELIMITED
_SECOND = 2 << 3 | LENGTH_DELIMITED


def salvage(kind: type[Request], body: bytes) -> Request:
    """The request with everything readable in it.

    Raises:
        Malformed: not even its frame is one of protobuf, or nothing in it is readable.
        TooManyMessages: see `wire_scan`.
    """
    request, budget = kind(), _Budget(body)
    resources = _resources(request)
    readable = lost = 0
    for tag, part in _fields(body):
        if tag == _FIRST:
            budget.take()
            try:
                readable += _read_resource(kind, resources.add(), part, budget)
            except Malformed:  # nobody knows whose its spans are, nor how many
                budget.take()
                del resources[-1]
                lost += 1
    if not readable:
        raise Malformed
    if lost:
        items = _items(_items(resources[-1]).add())
        for _ in range(lost):
            items.add()
    return request


def _read_resource(kind: type[Message], target: Any, body: bytes, budget: _Budget) -> int:
    """How many readable items it has."""
    about, scopes = _parts(body, budget)
    budget.take_within(Resource, about)
    _read_into(target.resource, about)
    return sum(_read_scope(kind, _items(target).add(), scope, budget) for scope in scopes)


def _read_scope(kind: type[Message], target: Any, body: bytes, budget: _Budget) -> int:
    items = _items(target)
    try:
        about, parts = _parts(body, budget)
        budget.take_within(InstrumentationScope, about)
        _read_into(target.scope, about)
    except Malformed:
        budget.take()
        target.Clear()
        _items(target).add()
        return 0
    item_kind = GetMessageClass(target.DESCRIPTOR.fields_by_number[2].message_type)
    readable = 0
    for part in parts:
        try:
            budget.take_within(item_kind, part)
            # In its frame, because protobuf's limit of depth counts from there, now and whenever what is
            # stored is read again.
            framed: Any = kind()
            _read_into(framed, _field(_FIRST, _field(_SECOND, _field(_SECOND, part))))
            items.append(_items(_items(_resources(framed)[0])[0])[0])
            readable += 1
        except Malformed:
            items.add()
    return readable


def _parts(body: bytes, budget: _Budget) -> tuple[bytes, list[bytes]]:
    """What a resource or scope says of itself, and the scopes or items in it. All are taken from `budget`."""
    about = bytearray()
    parts: list[bytes] = []
    for tag, part in _fields(body):
        if tag == _FIRST:
            about += part
        elif tag == _SECOND:
            budget.take()
            parts.append(part)
    budget.take()  # what it is about: one, even if there is none or several
    return bytes(about), parts


class _Budget:
    """How many messages may still be made, where the bytes are enough for too many."""

    def __init__(self, body: bytes) -> None:
        self._left = MAX_MESSAGES if len(body) >= MIN_MESSAGE_BYTES * MAX_MESSAGES else None
        self._parts_left = MAX_PARTS

    def take(self) -> None:
        """One resource, scope or item. Raises TooManyMessages when there is none left."""
        self._parts_left -= 1
        if self._parts_left < 0:
            raise TooManyMessages
        if self._left is not None:
            if not self._left:
                raise TooManyMessages
            self._left -= 1

    def take_within(self, kind: type[Message], body: bytes) -> None:
        """The messages within one of that kind. Raises Malformed as well."""
        if self._left is not None:
            self._left -= count_messages(kind, body, limit=self._left)


def _resources(request: Message) -> Any:
    return getattr(request, request.DESCRIPTOR.fields_by_number[1].name)


def _items(message: Any) -> Any:
    """Its field number 2: the scopes of a resource, the items of a scope."""
    return getattr(message, message.DESCRIPTOR.fields_by_number[2].name)


def _read_into(target: Message, body: bytes) -> None:
    try:
        target.MergeFromString(body)
    except DecodeError:
        target.Clear()
        try:
            target.MergeFromString(_with_valid_texts(body, 0, len(body), _texts(target.DESCRIPTOR), 0))
        except DecodeError:
            raise Malformed from None


def _fields(body: bytes) -> Generator[tuple[int, bytes]]:
    """Tag and content of every length-delimited field; numbers are left out.

    Raises:
        Malformed: `body` is no message.
    """
    for tag, _, content, stop in _walk(body, 0, len(body)):
        if content >= 0:
            yield tag, body[content:stop]


def _walk(body: bytes, position: int, end: int) -> Generator[tuple[int, int, int, int]]:
    """Each field as its tag, where it starts, where its content starts (-1: a number), and where it stops."""
    try:
        while position < end:
            start = position
            tag, position = read_varint(body, position)
            content = -1
            if tag & 7 == LENGTH_DELIMITED and tag >= 8:
                length, content = read_varint(body, position)
                position = content + length
            else:
                position = skip_number(body, position, tag)
            if position > end:
                raise Malformed
            yield tag, start, content, position
    except IndexError:
        raise Malformed from None


def _with_valid_texts(body: bytes, position: int, end: int, texts: _Texts, level: int) -> bytes:
    """Its bytes are not cut out on the way down: at each of 100 levels they would be there once more."""
    if level > MAX_LEVELS:
        raise Malformed
    result = bytearray()
    for tag, start, content, stop in _walk(body, position, end):
        if content < 0 or tag not in texts:
            result += body[start:stop]
            continue
        inner = texts[tag]
        if inner is None:
            part = body[content:stop].decode(errors="replace").encode()
        else:
            part = _with_valid_texts(body, content, stop, inner, level + 1)
        result += _field(tag, part)
    return bytes(result)


def _field(tag: int, content: bytes) -> bytes:
    return varint(tag) + varint(len(content)) + content


@cache
def _texts(descriptor: Descriptor) -> _Texts:
    return _build(descriptor, {})


def _build(descriptor: Descriptor, known: dict[str, _Texts]) -> _Texts:
    table = known.get(descriptor.full_name)
    if table is None:
        table = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                table[field.number << 3 | LENGTH_DELIMITED] = _build(field.message_type, known)
            elif field.type == FieldDescriptor.TYPE_STRING:
                table[field.number << 3 | LENGTH_DELIMITED] = None
    return table
