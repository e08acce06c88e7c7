"""OTLP/JSON to protobuf messages ("OTLP/HTTP, JSON Protobuf Encoding" of the OTLP specification).

Not the JSON mapping of protobuf: trace and span ids are hexadecimal, field names are lowerCamelCase only, and
unknown fields are ignored. `google.protobuf.json_format` would read ids as base64 without an error, has no
limit of depth, and takes five times as long.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

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

_HEX_FIELDS = frozenset({"trace_id", "span_id", "parent_span_id"})

Kind = TypeVar("Kind", bound=Message)
_Convert: TypeAlias = Callable[[Any, int], Any]
_Plan: TypeAlias = Mapping[str, tuple[str, _Convert]]


class NotOtlpJson(Exception):
    """What is wrong, naming the field but never its value.

    `field` is the path to it in the names of JSON, without positions in arrays; "" when it is unknown.
    """

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(problem)
        self.field = field


def from_json(kind: type[Kind], body: bytes, *, keep_readable: bool = False) -> Kind:
    """The message of type `kind` in `body`, bounded in time and memory.

    With `keep_readable` a span or log record that cannot be read is empty in the result, a single empty one
    stands for a scope or a resource that cannot be read, and the others are as they came.

    Raises:
        NotOtlpJson: and nothing else, for any bytes whatsoever.
    """
    if body.count(b"{") + body.count(b"[") > MAX_PARTS:
        raise NotOtlpJson(f"more than {MAX_PARTS} objects and arrays; send smaller batches")
    if body.count(b":") + body.count(b",") > MAX_SEPARATORS:
        raise NotOtlpJson(f"more than {MAX_SEPARATORS} names and values; send smaller batches")
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise NotOtlpJson("nested too deeply") from None
    except ValueError:  # also UnicodeDecodeError, and integers of thousands of digits
        raise NotOtlpJson("no JSON in UTF-8") from None
    try:
        return _built(kind, document, 0)
    except NotOtlpJson:
        salvaged = _salvaged(kind, document) if keep_readable else None
        if salvaged is None:
            raise
    return _built(kind, salvaged, 0)


def _built(kind: type[Kind], document: Any, level: int) -> Kind:
    values = _message(_plan(kind.DESCRIPTOR), document, level)
    try:
        return kind(**values)
    except (ValueError, TypeError):
        # What is left after the checks of each field: lone surrogates, which UTF-8 cannot hold.
        raise NotOtlpJson("a text that is no Unicode") from None


def _salvaged(kind: type[Message], document: Any) -> dict[str, Any] | None:
    """What can be read of a request; None when no item can be, or too many cannot.

    As `salvage` does it with protobuf: an empty item stands for one that cannot be read, and for a scope or a
    resource with all of its items. Nobody knows whose those of a resource are, so another one has the empty.
    """
    request: Any = kind.DESCRIPTOR
    resources = request.fields_by_number[1]
    scopes = resources.message_type.fields_by_number[2]
    items = scopes.message_type.fields_by_number[2]
    lost_scope = {items.json_name: [_LOST]}  # one for all: there may be millions
    kept: list[dict[str, Any]] = []
    lost = 0
    for resource in _listed(document, resources):
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
    items = scopes.message_type.fields_by_number[2]
    kind = GetMessageClass(items.message_type)
    try:
        about, inner = _taken_apart(scopes, scope, _ITEM_LEVEL)
    except NotOtlpJson:
        return None
    return {**about, items.json_name: [item if _is_readable(kind, item) else _LOST for item in inner]}


def _taken_apart(field: Any, value: Any, level: int) -> tuple[dict[str, Any], list[Any]]:
    """What describes a resource (or scope), and its scopes (items). Raises NotOtlpJson."""
    about = field.message_type.fields_by_number[1]
    inner = _listed(value, field.message_type.fields_by_number[2])
    described = value.get(about.json_name)
    if described is not None:
        _built(GetMessageClass(about.message_type), described, level)
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


def _is_readable(kind: type[Message], item: Any) -> bool:
    try:
        _built(kind, item, _ITEM_LEVEL)
    except NotOtlpJson:
        return False
    return True


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    """How each field of a message is read, by its name in JSON."""
    return {field.json_name: (field.name, _converter(field)) for field in descriptor.fields}


def _converter(field: FieldDescriptor) -> _Convert:
    convert = _single_converter(field)
    if not field.is_repeated:
        return convert
    name = field.json_name

    def each(value: Any, level: int) -> list[Any]:
        if not isinstance(value, list):
            raise NotOtlpJson(f"{name} must be an array")
        return [convert(item, level) for item in cast("list[Any]", value)]

    return each


def _single_converter(field: FieldDescriptor) -> _Convert:
    name = field.json_name
    if field.message_type is not None:
        inner = field.message_type
        return lambda value, level: _message(_plan(inner), value, level + 1, name)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return _hex(name) if field.name in _HEX_FIELDS else _base64(name)
        case FieldDescriptor.CPPTYPE_STRING:
            return _of_type(name, str, "text")
        case FieldDescriptor.CPPTYPE_BOOL:
            return _of_type(name, bool, "true or false")
        case FieldDescriptor.CPPTYPE_INT64:
            return _integer(name, -(2**63), 2**63 - 1)
        case FieldDescriptor.CPPTYPE_UINT64:
            return _integer(name, 0, 2**64 - 1)
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_ENUM:
            return _integer(name, -(2**31), 2**31 - 1)
        case FieldDescriptor.CPPTYPE_UINT32:
            return _integer(name, 0, 2**32 - 1)
        case _:
            return _double(name)


def _message(plan: _Plan, value: Any, level: int, name: str = "the body") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotOtlpJson(f"{name} must be an object")
    if level > MAX_LEVELS:
        raise NotOtlpJson("nested too deeply")
    result: dict[str, Any] = {}
    for key, item in cast("dict[str, Any]", value).items():
        field = plan.get(key)
        if field is not None and item is not None:
            try:
                result[field[0]] = field[1](item, level)
            except NotOtlpJson as problem:
                problem.field = f"{key}.{problem.field}" if problem.field else key
                raise
    return result


def _of_type(name: str, kind: type, described: str) -> _Convert:
    def convert(value: Any, _level: int) -> Any:
        if not isinstance(value, kind):
            raise NotOtlpJson(f"{name} must be {described}")
        return value

    return convert


def _hex(name: str) -> _Convert:
    def convert(value: Any, _level: int) -> bytes:
        try:
            return binascii.unhexlify(value)
        except (ValueError, TypeError):
            raise NotOtlpJson(f"{name} must be hexadecimal text") from None

    return convert


def _base64(name: str) -> _Convert:
    def convert(value: Any, _level: int) -> bytes:
        try:
            # Both alphabets, with or without padding, as protobuf's JSON mapping allows.
            text = value.replace("-", "+").replace("_", "/").rstrip("=")
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (ValueError, TypeError, AttributeError):
            raise NotOtlpJson(f"{name} must be base64 text") from None

    return convert


def _integer(name: str, lowest: int, highest: int) -> _Convert:
    """Numbers, or decimal text as JavaScript needs it for 64 bits. Names of enum values are not OTLP."""

    def convert(value: Any, _level: int) -> int:
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


def _double(name: str) -> _Convert:
    def convert(value: Any, _level: int) -> float:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except (ValueError, OverflowError):
                pass
        raise NotOtlpJson(f"{name} must be a number")

    return convert
