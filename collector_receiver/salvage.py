"""Reads what can be read of protobuf bytes that protobuf itself refuses as a whole.

One wrong byte in one text makes protobuf refuse a request, although its frame is sound: exporters written in
C++, PHP or Rust do not check texts, and Collectors pass on what they got, together with the spans of others.
Texts get U+FFFD for what is no UTF-8. What still cannot be read is replaced by an empty span (or log record),
which the translation refuses by name. Only runs when protobuf has failed, and in time linear in the bytes.
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
    count_messages,
    read_varint,
    skip_number,
)

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
            try:
                readable += _read_resource(kind, resources.add(), part, budget)
            except Malformed:  # nobody knows whose its spans are, nor how many
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
    parts = list(_fields(body))
    about = b"".join(part for tag, part in parts if tag == _FIRST)
    budget.take(Resource, about)
    _read_into(target.resource, about)
    scopes = (part for tag, part in parts if tag == _SECOND)
    return sum(_read_scope(kind, _items(target).add(), scope, budget) for scope in scopes)


def _read_scope(kind: type[Message], target: Any, body: bytes, budget: _Budget) -> int:
    items = _items(target)
    try:
        parts = list(_fields(body))
        about = b"".join(part for tag, part in parts if tag == _FIRST)
        budget.take(InstrumentationScope, about)
        _read_into(target.scope, about)
    except Malformed:
        target.Clear()
        _items(target).add()
        return 0
    item_kind = GetMessageClass(target.DESCRIPTOR.fields_by_number[2].message_type)
    readable = 0
    for tag, part in parts:
        if tag == _SECOND:
            try:
                budget.take(item_kind, part)
                # In its frame, because protobuf's limit of depth counts from there, now and whenever what is
                # stored is read again.
                framed: Any = kind()
                _read_into(framed, _field(_FIRST, _field(_SECOND, _field(_SECOND, part))))
                items.append(_items(_items(_resources(framed)[0])[0])[0])
                readable += 1
            except Malformed:
                items.add()
    return readable


class _Budget:
    """How many messages may still be made, where the bytes are enough for too many."""

    def __init__(self, body: bytes) -> None:
        self._left = MAX_MESSAGES if len(body) >= MIN_MESSAGE_BYTES * MAX_MESSAGES else None

    def take(self, kind: type[Message], body: bytes) -> None:
        if self._left is not None:
            self._left -= 1
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
            target.MergeFromString(_with_valid_texts(body, _texts(target.DESCRIPTOR), 0))
        except DecodeError:
            raise Malformed from None


def _fields(body: bytes) -> Generator[tuple[int, bytes]]:
    """Tag and content of every length-delimited field; numbers are left out.

    Raises:
        Malformed: `body` is no message.
    """
    for tag, _, content, stop in _walk(body):
        if content >= 0:
            yield tag, body[content:stop]


def _walk(body: bytes) -> Generator[tuple[int, int, int, int]]:
    """Each field as its tag, where it starts, where its content starts (-1: a number), and where it stops."""
    position, end = 0, len(body)
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


def _with_valid_texts(body: bytes, texts: _Texts, level: int) -> bytes:
    if level > MAX_LEVELS:
        raise Malformed
    result = bytearray()
    for tag, start, content, stop in _walk(body):
        if content < 0 or tag not in texts:
            result += body[start:stop]
            continue
        inner = texts[tag]
        part = body[content:stop]
        if inner is None:
            part = part.decode(errors="replace").encode()
        else:
            part = _with_valid_texts(part, inner, level + 1)
        result += _field(tag, part)
    return bytes(result)


def _field(tag: int, content: bytes) -> bytes:
    return _varint(tag) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


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
