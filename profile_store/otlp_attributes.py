"""OTLP key-value lists to plain values that BSON and JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from profile_store.model import AttributeValue

MAX_DEPTH = 16
MAX_KEY_CHARACTERS = 256


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    """The pairs as a dictionary: of a repeated key the last value stays, a pair without a key is left out."""
    return _mapping(pairs, 1)


def _mapping(pairs: Iterable[KeyValue], depth: int) -> dict[str, AttributeValue]:
    result: dict[str, AttributeValue] = {}
    for pair in pairs:
        key = pair.key
        if not key:
            continue
        if len(key) > MAX_KEY_CHARACTERS or "\x00" in key:
            key = key[:MAX_KEY_CHARACTERS].replace("\x00", "\ufffd")
        value = pair.value
        text = (
            value.string_value
        )  # nearly every value is text: asking for it first saves a quarter of the time
        result[key] = text if text else value_of(value, depth)
    return result


def value_of(value: AnyValue, depth: int = 1) -> AttributeValue:
    """One value; an empty one is None. What lies deeper than 16 levels is replaced by a note."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        if depth >= MAX_DEPTH:
            return f"[nested deeper than {MAX_DEPTH} levels]"
        return [value_of(item, depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        if depth >= MAX_DEPTH:
            return f"[nested deeper than {MAX_DEPTH} levels]"
        return _mapping(value.kvlist_value.values, depth + 1)
    return _scalar(value, kind)


def _scalar(value: AnyValue, kind: str | None) -> AttributeValue:
    match kind:
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return _json_safe(value.double_value)
        case "bytes_value":
            return value.bytes_value
        case _:  # unset, or string_value_strindex, which a trace receiver has to ignore
            return None


def _json_safe(number: float) -> float | str:
    """JSON has no infinities and no NaN: they become the words that OTLP/JSON uses."""
    if math.isfinite(number):
        return number
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"
