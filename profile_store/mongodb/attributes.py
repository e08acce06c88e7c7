"""Attributes in one compressed binary: nothing that a sender names can clash with rules of the database.

A BSON key may hold no NUL, a dotted key cannot be queried, integers end at 2**63 and nesting at 180 levels.
JSON has none of these limits. It lacks bytes, so a value that is an object is a tag: {"b": base64} or {"m":
mapping}.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from profile_store.model import Attributes, AttributeValue, SpanEvent
from profile_store.mongodb.compression import compress, decompress

MAX_DEPTH = 64
"""Levels of nesting; the limit of the OpenTelemetry specification (AttributeValueDepthLimit)."""

MAX_JSON_BYTES = 64 * 1024 * 1024

_PLAIN = frozenset({str, int, float, bool, type(None)})
# Circles cannot be: deep values are copied, down to a bound.
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def pack(attributes: Attributes, resource: Attributes, events: Sequence[SpanEvent]) -> bytes:
    """Lossless for every value of `AttributeValue`; sequences come back as lists.

    Raises:
        ValueError: nested deeper than `MAX_DEPTH`, larger than `MAX_JSON_BYTES`, or a value of another type.
    """
    packed_events = [[event.name, event.time_unix_nano, _mapping(event.attributes, 1)] for event in events]
    content = [_mapping(attributes, 1), _mapping(resource, 1), packed_events]
    text = _to_json(content).encode()
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"attributes need {len(text)} bytes, more than {MAX_JSON_BYTES}")
    return compress(text)


def unpack(data: bytes) -> tuple[dict[str, AttributeValue], dict[str, AttributeValue], list[SpanEvent]]:
    """Attributes, resource and events again.

    Raises:
        ValueError: these are not bytes of `pack`.
    """
    try:
        text = decompress(data, at_most=MAX_JSON_BYTES)
        attributes, resource, events = cast("tuple[Any, Any, list[Any]]", json.loads(text))
        return (
            _restored_mapping(attributes),
            _restored_mapping(resource),
            [
                SpanEvent(name=name, time_unix_nano=time, attributes=_restored_mapping(values))
                for name, time, values in events
            ],
        )
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"packed attributes are damaged: {type(error).__name__}") from None


def _mapping(values: Mapping[str, AttributeValue], depth: int) -> dict[str, Any]:
    if _PLAIN.issuperset(map(type, values.values())):  # nearly always
        return values if isinstance(values, dict) else dict(values)
    return {key: _plain(value, depth) for key, value in values.items()}


def _plain(value: AttributeValue, depth: int) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"b": base64.b64encode(value).decode()}
    if depth >= MAX_DEPTH:
        raise ValueError(f"attributes are nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {"m": _mapping(value, depth + 1)}
    if isinstance(value, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance] - values come from the network
        return [_plain(item, depth + 1) for item in value]
    raise ValueError(f"attribute of type {type(value).__name__}")


def _restored_mapping(values: dict[str, Any]) -> dict[str, AttributeValue]:
    return {key: _restored(value) for key, value in values.items()}


def _restored(value: Any) -> AttributeValue:
    if isinstance(value, dict):
        tagged = cast("dict[str, Any]", value)
        return base64.b64decode(tagged["b"]) if "b" in tagged else _restored_mapping(tagged["m"])
    if isinstance(value, list):
        return [_restored(item) for item in cast("list[Any]", value)]
    return cast("AttributeValue", value)
