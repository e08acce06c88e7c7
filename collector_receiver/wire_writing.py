"""Parts of protobuf's wire format. Format: https://protobuf.dev/programming-guides/encoding/"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.descriptor import FieldDescriptor

_LENGTH_DELIMITED = 2
_WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: 1,
    FieldDescriptor.TYPE_FIXED64: 1,
    FieldDescriptor.TYPE_SFIXED64: 1,
    FieldDescriptor.TYPE_STRING: _LENGTH_DELIMITED,
    FieldDescriptor.TYPE_BYTES: _LENGTH_DELIMITED,
    FieldDescriptor.TYPE_MESSAGE: _LENGTH_DELIMITED,
    FieldDescriptor.TYPE_FIXED32: 5,
    FieldDescriptor.TYPE_SFIXED32: 5,
}
"""By type; 0, a varint, for the others."""


_ONE_BYTE = [bytes((number,)) for number in range(128)]


def tag_of(field: FieldDescriptor) -> bytes:
    """What stands before each value of a field."""
    return varint(field.number << 3 | _WIRE_TYPES.get(field.type, 0))


@lru_cache(maxsize=8_192)
def field_head(tag: bytes, length: int) -> bytes:
    """Tag and length of a field. Remembered, as most spans and texts have one of some thousand lengths."""
    return tag + varint(length)


def varint(value: int) -> bytes:
    """A number from 0 to 2**64 - 1."""
    if value < len(_ONE_BYTE):
        return _ONE_BYTE[value]
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
