"""Single values of OTLP/JSON as protobuf writes them: texts, ids, numbers.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from collector_receiver.wire_writing import field_head, tag_of, varint

Write: TypeAlias = Callable[[Any, int], bytes]
"""Of a field with its tag, from the value in JSON and its level: how many messages it is in."""

_HEX_FIELDS = frozenset({"trace_id", "span_id", "parent_span_id"})


class NotOtlpJson(Exception):
    """What is wrong, naming the field but never its value.

    `field` is the path to it in the names of JSON, without positions in arrays; "" when it is unknown.
    """

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(problem)
        self.field = field


def value_writer(field: FieldDescriptor) -> Write:
    """Of a field that is no message. Raises NotOtlpJson when the value is none of its type."""
    name, tag = field.json_name, tag_of(field)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(tag, _hex(name) if field.name in _HEX_FIELDS else _base64(name))
    if field.type == FieldDescriptor.TYPE_STRING:
        return _bytes(tag, _text(name))
    write = _NUMBERS[field.type]
    convert = _CONVERTERS[field.cpp_type](name)
    return lambda value, _level: tag + write(convert(value))


def _bytes(tag: bytes, convert: Callable[[Any], bytes]) -> Write:
    def write(value: Any, _level: int) -> bytes:
        content = convert(value)
        return field_head(tag, len(content)) + content

    return write


def _text(name: str) -> Callable[[Any], bytes]:
    def convert(value: Any) -> bytes:
        if not isinstance(value, str):
            raise NotOtlpJson(f"{name} must be text")
        try:
            return value.encode()
        except UnicodeEncodeError:  # lone surrogates
            raise NotOtlpJson(f"{name} is a text that is no Unicode") from None

    return convert


def _hex(name: str) -> Callable[[Any], bytes]:
    def convert(value: Any) -> bytes:
        try:
            return binascii.unhexlify(value)
        except (ValueError, TypeError):
            raise NotOtlpJson(f"{name} must be hexadecimal text") from None

    return convert


def _base64(name: str) -> Callable[[Any], bytes]:
    def convert(value: Any) -> bytes:
        try:
            # Both alphabets, with or without padding, as protobuf's JSON mapping allows.
            text = value.replace("-", "+").replace("_", "/").rstrip("=")
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (ValueError, TypeError, AttributeError):
            raise NotOtlpJson(f"{name} must be base64 text") from None

    return convert


def _boolean(name: str) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if not isinstance(value, bool):
            raise NotOtlpJson(f"{name} must be true or false")
        return value

    return convert


def _integer(lowest: int, highest: int) -> Callable[[str], Callable[[Any], int]]:
    """Numbers, or decimal text as JavaScript needs it for 64 bits. Names of enum values are not OTLP."""

    def of(name: str) -> Callable[[Any], int]:
        def convert(value: Any) -> int:
            if isinstance(value, str) and value.isascii() and len(value) <= 20 and "_" not in value:
                try:
                    value = int(value)
                except ValueError:
                    value = None
            elif isinstance(value, float) and value.is_integer():
                value = int(value)
            if not isinstance(value, int) or isinstance(value, bool):
                raise NotOtlpJson(f"{name} must be an integer")
            if not lowest <= value <= highest:
                raise NotOtlpJson(f"{name} is out of range")
            return value

        return convert

    return of


def _double(name: str) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except (ValueError, OverflowError):
                pass
        raise NotOtlpJson(f"{name} must be a number")

    return convert


_CONVERTERS: Mapping[int, Callable[[str], Callable[[Any], Any]]] = {
    FieldDescriptor.CPPTYPE_BOOL: _boolean,
    FieldDescriptor.CPPTYPE_INT64: _integer(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: _integer(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_INT32: _integer(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_ENUM: _integer(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: _integer(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: _double,
}


def _signed_varint(value: int) -> bytes:
    return varint(value & 2**64 - 1)


def _zigzag(value: int) -> bytes:
    return varint(value * 2 if value >= 0 else value * -2 - 1)


_NUMBERS: Mapping[int, Callable[[Any], bytes]] = {
    FieldDescriptor.TYPE_BOOL: varint,
    FieldDescriptor.TYPE_INT32: _signed_varint,
    FieldDescriptor.TYPE_INT64: _signed_varint,
    FieldDescriptor.TYPE_ENUM: _signed_varint,
    FieldDescriptor.TYPE_UINT32: varint,
    FieldDescriptor.TYPE_UINT64: varint,
    FieldDescriptor.TYPE_SINT32: _zigzag,
    FieldDescriptor.TYPE_SINT64: _zigzag,
    FieldDescriptor.TYPE_FIXED32: struct.Struct("<I").pack,
    FieldDescriptor.TYPE_SFIXED32: struct.Struct("<i").pack,
    FieldDescriptor.TYPE_FIXED64: struct.Struct("<Q").pack,
    FieldDescriptor.TYPE_SFIXED64: struct.Struct("<q").pack,
    FieldDescriptor.TYPE_DOUBLE: struct.Struct("<d").pack,
}
"""By type: those of OTLP, and two that a later release may have.

Packed fields are written one by one, which protobuf reads as well.
"""
