"""OTLP/JSON to protobuf bytes ("OTLP/HTTP, JSON Protobuf Encoding" of the OTLP specification).

Not the JSON mapping of protobuf: trace and span ids are hexadecimal, field names are lowerCamelCase only, and
unknown fields are ignored. `google.protobuf.json_format` would read ids as base64 without an error, has no
limit of depth, and takes eight times as long.

Bytes and no messages, because protobuf reads bytes eight times as fast as messages are made from Python, and
what is stored of a span is its bytes. Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from collector_receiver.json_values import NotOtlpJson, Write, value_writer
from collector_receiver.wire_writing import field_head, tag_of

MAX_PARTS = 400_000
"""Objects and arrays in one body: each takes 64 to 230 bytes of memory, for as little as 2 bytes of text."""

MAX_SEPARATORS = 2_000_000
"""Colons and commas in one body: as many names and values at most, of up to 90 bytes of memory each. Those in
texts count too. Measured: 16 MiB of spans, or of log records that hold JSON, have at most 1.7 million; of
histograms less than 16 MiB may reach it."""

MAX_LEVELS = 100
"""Messages within messages, as in protobuf's own reader: what is stored is read by that."""

_RESOURCE_LEVEL = 2  # in its element in the request
_ITEM_LEVEL = 3  # of a span, and of what describes its scope

_LOST: dict[str, Any] = {}  # in the place of an item that cannot be read; the translation refuses it by name

_Plan: TypeAlias = Mapping[str, Write]


def to_protobuf(kind: type[Message], body: bytes, *, keep_readable: bool = False) -> bytes:
    """The request of type `kind` in `body` as protobuf, bounded in time and memory. Protobuf can read it.

    With `keep_readable` a span or log record that cannot be read is empty in the result, a single empty one
    stands for a scope or a resource that cannot be read, and the others are as they came.

    Raises:
        NotOtlpJson: and nothing else, for any bytes whatsoever.
    """
    if len(body) > MAX_PARTS and body.count(b"{") + body.count(b"[") > MAX_PARTS:
        raise NotOtlpJson(f"more than {MAX_PARTS} objects and arrays; send smaller batches")
    if len(body) > MAX_SEPARATORS and body.count(b":") + body.count(b",") > MAX_SEPARATORS:
        raise NotOtlpJson(f"more than {MAX_SEPARATORS} names and values; send smaller batches")
    document = _document(body)
    names = _list_names(kind.DESCRIPTOR)
    if _may_have_lost_a_list(names, body, document):
        del document  # else there are two of them in memory
        document = _document(body, object_pairs_hook=_each_once(names))
    plan = _plan(kind.DESCRIPTOR)
    try:
        return _message(plan, document, 0)
    except NotOtlpJson:
        salvaged = _salvaged(kind.DESCRIPTOR, document) if keep_readable else None
        if salvaged is None:
            raise
    return _message(plan, salvaged, 0)


def _document(body: bytes, **options: Any) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, **options)
    except RecursionError:
        raise NotOtlpJson("nested too deeply") from None
    except ValueError:  # also UnicodeDecodeError, and integers of thousands of digits
        raise NotOtlpJson("no JSON in UTF-8") from None


@cache
def _list_names(request: Descriptor) -> tuple[str, ...]:
    """Of the lists that all items are in: of resources, of scopes, of spans (or log records)."""
    names: list[str] = []
    field: Any = request.fields_by_number.get(1)
    while field is not None and field.message_type is not None and len(names) < _ITEM_LEVEL:
        names.append(field.json_name)
        field = field.message_type.fields_by_number.get(2)
    return tuple(names)


def _may_have_lost_a_list(names: Sequence[str], body: bytes, document: Any) -> bool:
    """Of a name that an object has twice Python keeps the last value, and whole lists of spans may be gone.

    To look at each object while it is read costs as much as to read it. A list is as often in the text as in
    what was read of it, unless one is gone, a text ends like its name, or its name is written with escapes.
    """
    if b"\\" in body and b"\\u00" in body:
        return True
    read, holders = 0, _objects([document])
    for name in names:
        lists = [holder[name] for holder in holders if name in holder]
        read += len(lists)
        holders = [element for elements in lists for element in _objects(elements)]
    endings = {f'{name[-4:]}"'.encode() for name in names}
    return sum(map(body.count, endings)) != read


def _objects(values: Any) -> list[dict[str, Any]]:
    listed = cast("list[Any]", values) if isinstance(values, list) else []
    return [value for value in listed if isinstance(value, dict)]


def _each_once(names: Sequence[str]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def made(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) < len(members):
            for name in names:
                if name in found and sum(member == name for member, _ in members) > 1:
                    raise NotOtlpJson(f"an object has {name} twice", name)
        return found

    return made


def _salvaged(request: Any, document: Any) -> dict[str, Any] | None:
    """What can be read of a request; None when no item can be, or too many cannot.

    As `salvage` does it with protobuf: an empty item stands for one that cannot be read, and for a scope or a
    resource with all of its items. Nobody knows whose those of a resource are, so another one has the empty.
    """
    resources = request.fields_by_number[1]
    scopes = resources.message_type.fields_by_number[2]
    items = scopes.message_type.fields_by_number[2]
    lost_scope = {items.json_name: [_LOST]}  # one for all: there may be millions
    kept: list[dict[str, Any]] = []
    lost = 0
    for resource in _listed(document, resources):
        if not isinstance(resource, dict):  # there may be millions, and an exception takes a microsecond
            lost += 1
            continue
        try:
            about, inner = _taken_apart(resources, resource, _RESOURCE_LEVEL)
        except NotOtlpJson:
            lost += 1
            continue
        salvaged = [_salvaged_scope(scopes, scope) or lost_scope for scope in inner]
        kept.append({**about, scopes.json_name: salvaged})
    if kept and lost:
        kept[-1][scopes.json_name].append({items.json_name: [_LOST] * lost})
    left = [
        item for resource in kept for scope in resource[scopes.json_name] for item in scope[items.json_name]
    ]
    if len(left) > MAX_PARTS or all(item is _LOST for item in left):
        return None
    return {resources.json_name: kept}


def _salvaged_scope(scopes: Any, scope: Any) -> dict[str, Any] | None:
    if not isinstance(scope, dict):
        return None
    items = scopes.message_type.fields_by_number[2]
    plan = _plan(items.message_type)
    try:
        about, inner = _taken_apart(scopes, scope, _ITEM_LEVEL)
    except NotOtlpJson:
        return None
    return {**about, items.json_name: [item if _is_readable(plan, item) else _LOST for item in inner]}


def _taken_apart(field: Any, value: Any, level: int) -> tuple[dict[str, Any], list[Any]]:
    """What describes a resource (or scope), and its scopes (items). Raises NotOtlpJson."""
    about = field.message_type.fields_by_number[1]
    inner = _listed(value, field.message_type.fields_by_number[2])
    described = value.get(about.json_name)
    if described is not None:
        _message(_plan(about.message_type), described, level)
    return {about.json_name: described}, inner


def _listed(value: Any, field: Any) -> list[Any]:
    """What the object `value` has in a repeated field. Raises NotOtlpJson."""
    if not isinstance(value, dict):
        raise NotOtlpJson(f"what holds {field.json_name} must be an object")
    found = cast("dict[str, Any]", value).get(field.json_name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise NotOtlpJson(f"{field.json_name} must be an array", field.json_name)
    return cast("list[Any]", found)


def _is_readable(plan: _Plan, item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    try:
        _message(plan, item, _ITEM_LEVEL)
    except NotOtlpJson:
        return False
    return True


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    """How each field of a message is written, by its name in JSON."""
    return {field.json_name: _writer(field) for field in descriptor.fields}


def _writer(field: FieldDescriptor) -> Write:
    write = _single_writer(field)
    if not field.is_repeated:
        return write
    if field.message_type is KeyValue.DESCRIPTOR:
        return _key_values(field, write)
    name = field.json_name

    def each(value: Any, level: int) -> bytes:
        if not isinstance(value, list):
            raise NotOtlpJson(f"{name} must be an array")
        # Not joined from a list: there may be two million, and each would be an object until the end.
        written = bytearray()
        for item in cast("list[Any]", value):
            written += write(item, level)
        return bytes(written)

    return each


def _single_writer(field: FieldDescriptor) -> Write:
    name = field.json_name
    if field.message_type is KeyValue.DESCRIPTOR:
        return _key_value(field)
    if field.message_type is not None:
        inner, tag = field.message_type, tag_of(field)

        def message(value: Any, level: int) -> bytes:
            content = _message(_plan(inner), value, level + 1, name)
            return field_head(tag, len(content)) + content

        return message
    return value_writer(field)


def _key_value(field: FieldDescriptor) -> Write:
    """As for any message. Most have a text or an integer, and most of a request is these."""
    tag = tag_of(field)
    plan = _plan(KeyValue.DESCRIPTOR)
    key_tag = tag_of(KeyValue.DESCRIPTOR.fields_by_name["key"])
    value_tag = tag_of(KeyValue.DESCRIPTOR.fields_by_name["value"])
    name = field.json_name

    def write(item: Any, level: int) -> bytes:
        usual = _usual_parts(item) if level < MAX_LEVELS - 1 else None
        if usual is None:
            content = _message(plan, item, level + 1, name)
            return field_head(tag, len(content)) + content
        key, value = usual
        key_head, value_head = field_head(key_tag, len(key)), field_head(value_tag, len(value))
        length = len(key_head) + len(key) + len(value_head) + len(value)
        return b"".join((field_head(tag, length), key_head, key, value_head, value))

    return write


_KEY_TAG = tag_of(KeyValue.DESCRIPTOR.fields_by_name["key"])
_VALUE_TAG = tag_of(KeyValue.DESCRIPTOR.fields_by_name["value"])
_TEXT_TAG = tag_of(AnyValue.DESCRIPTOR.fields_by_name["string_value"])

_ONE_BYTE_LENGTHS = 128
_SHORT_TEXTS_AT_ONCE = 1_024
_HEADS_OF_SHORT_TEXT = 6  # three tags with their lengths: of the key, the value and the text in that
_KEY_HEADS = [field_head(_KEY_TAG, length).decode("latin-1") for length in range(_ONE_BYTE_LENGTHS)]
_TEXT_HEADS = [
    (field_head(_VALUE_TAG, length + 2) + field_head(_TEXT_TAG, length)).decode("latin-1")
    for length in range(_ONE_BYTE_LENGTHS)
]


def _key_values(field: FieldDescriptor, write_other: Write) -> Write:
    """A list of them. Most are texts so short that each length takes one byte: they are put together as text
    in which each character stands for a byte, as in ASCII, and those in a row are encoded at once.
    """
    name, tag = field.json_name, tag_of(field)
    heads_by_length = [
        field_head(tag, length).decode("latin-1")
        for length in range(_HEADS_OF_SHORT_TEXT, _ONE_BYTE_LENGTHS)  # from empty texts on
    ]

    def some(items: list[Any], level: int) -> bytearray:
        heads = heads_by_length if level < MAX_LEVELS - 1 else ()  # deeper, the rules for any message decide
        written = bytearray()
        short: list[str] = []
        for item in items:
            try:
                any_value = item["value"]
                key, text = item["key"], any_value["stringValue"]
                if len(item) == 2 and len(any_value) == 1:
                    if not (key.isascii() and text.isascii()):
                        key, text = key.encode().decode("latin-1"), text.encode().decode("latin-1")
                    of_key, of_text = len(key), len(text)
                    head = heads[of_key + of_text]
                    short.append(f"{head}{_KEY_HEADS[of_key]}{key}{_TEXT_HEADS[of_text]}{text}")
                    continue
            except (LookupError, TypeError, AttributeError, UnicodeEncodeError):
                pass
            written += "".join(short).encode("latin-1")
            short.clear()
            written += write_other(item, level)
        written += "".join(short).encode("latin-1")
        return written

    def each(value: Any, level: int) -> bytes:
        if not isinstance(value, list):
            raise NotOtlpJson(f"{name} must be an array")
        items = cast("list[Any]", value)
        # Not all at once: each would be an object until the end.
        written = bytearray()
        for start in range(0, len(items), _SHORT_TEXTS_AT_ONCE):
            written += some(items[start : start + _SHORT_TEXTS_AT_ONCE], level)
        return bytes(written)

    return each


def _usual_parts(item: Any) -> tuple[bytes, bytes] | None:
    """The key, and the `AnyValue`; None where the rules for any message have to decide."""
    try:
        value = item["value"]
        if len(item) != 2 or len(value) != 1:
            return None
        key = item["key"].encode()
        if "stringValue" in value:
            text = value["stringValue"].encode()
            return key, field_head(_TEXT_TAG, len(text)) + text
        return key, _plan(AnyValue.DESCRIPTOR)["intValue"](value["intValue"], 0)
    except (LookupError, TypeError, AttributeError, UnicodeEncodeError, NotOtlpJson):
        return None


def _message(plan: _Plan, value: Any, level: int, name: str = "the body") -> bytes:
    if not isinstance(value, dict):
        raise NotOtlpJson(f"{name} must be an object")
    if level > MAX_LEVELS:
        raise NotOtlpJson("nested too deeply")
    fields: list[bytes] = []
    for key, item in cast("dict[str, Any]", value).items():
        write = plan.get(key)
        if write is not None and item is not None:
            try:
                fields.append(write(item, level))
            except NotOtlpJson as problem:
                problem.field = f"{key}.{problem.field}" if problem.field else key
                raise
    return b"".join(fields)
