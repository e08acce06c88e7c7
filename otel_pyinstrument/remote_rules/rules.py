"""Rules of the platform, read from JSON that may hold anything, and what the settings say as such rules."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from otel_pyinstrument.endpoint import Endpoint, endpoint_key
from otel_pyinstrument.endpoint_rates import read_endpoint_rate
from otel_pyinstrument.path_patterns import BadPattern, PathPatterns

MAX_BYTES = 262_144
_MAX_ENDPOINTS = 500
_MAX_CHARACTERS = 500


class InvalidRules(ValueError):
    """The document is none of ours; the message names the field."""


class EndpointRule(NamedTuple):
    """For one endpoint, until `expires_at` (Unix time). None: not decided."""

    sampling_rate: float | None = None
    slow_threshold: float | None = None
    """Seconds."""
    expires_at: float | None = None


_NO_PATTERNS: Final = PathPatterns(())


class Rules(NamedTuple):
    """None and empty mean that the platform does not decide; then the settings do."""

    enabled: bool | None = None
    sampling_rate: float | None = None
    include: PathPatterns = _NO_PATTERNS
    exclude: PathPatterns = _NO_PATTERNS
    endpoints: Mapping[str, EndpointRule] = MappingProxyType({})

    def rule_for(self, endpoint: Endpoint, now: float) -> EndpointRule | None:
        """The rule for this very path, or for the route if that is known, and has not expired.

        One for its method goes before one for all methods.
        """
        method, key, path = endpoint.method, endpoint.key, endpoint.path
        for name in (f"{method} {path}", key, f" {path}", key[len(method) :]):
            rule = self.endpoints.get(name)
            if rule is not None and (rule.expires_at is None or rule.expires_at > now):
                return rule
        return None


NO_RULES = Rules()


def rules_of(endpoint_rates: Iterable[str]) -> Rules:
    """Those of `Settings.endpoint_rates`.

    Raises:
        ValueError: an entry is none.
    """
    endpoints: dict[str, EndpointRule] = {}
    for endpoint, rate in map(read_endpoint_rate, endpoint_rates):
        endpoints |= dict.fromkeys(_names_of(endpoint), EndpointRule(sampling_rate=rate))
    return Rules(endpoints=endpoints)


def read_rules(document: bytes) -> Rules:
    """Rules from `{"sampling_rate": ..., "enabled": ..., "exclude_paths": [...], "include_patterns": [...],
    "endpoint_configs": {"GET /api/x": {"sampling_rate", "slow_threshold", "expires_at"}}}`, plain or as
    `data` of an answer of the API. Unknown fields are for later versions and ignored.

    Raises:
        InvalidRules: it is anything else, or too large. Then nothing of it holds.
    """
    if len(document) > MAX_BYTES:
        raise InvalidRules(f"more than {MAX_BYTES} bytes")
    try:
        decoded: Any = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidRules(f"not JSON: {str(error)[:_MAX_CHARACTERS]}") from None
    fields = _mapping(decoded, "the document")
    if "data" in fields:
        fields = _mapping(fields["data"], "data")
    try:
        return Rules(
            enabled=_flag(fields, "enabled"),
            sampling_rate=_number(fields, "sampling_rate", 1.0),
            include=PathPatterns(_texts(fields, "include_patterns")),
            exclude=PathPatterns(_texts(fields, "exclude_paths")),
            endpoints=_endpoints(fields),
        )
    except BadPattern as error:
        raise InvalidRules(str(error)) from None


def _endpoints(fields: Mapping[str, Any]) -> dict[str, EndpointRule]:
    given = fields.get("endpoint_configs")
    entries: Mapping[str, Any] = {} if given is None else _mapping(given, "endpoint_configs")
    if len(entries) > _MAX_ENDPOINTS:
        raise InvalidRules(f"endpoint_configs has more than {_MAX_ENDPOINTS} entries")
    rules: dict[str, EndpointRule] = {}
    for name, value in entries.items():
        entry = _mapping(value, "endpoint_configs")
        rule = EndpointRule(
            sampling_rate=_number(entry, "sampling_rate", 1.0),
            slow_threshold=_number(entry, "slow_threshold", 86_400.0),
            expires_at=_time(entry),
        )
        rules |= dict.fromkeys(_names_of(name[:_MAX_CHARACTERS].strip()), rule)
    return rules


def _names_of(endpoint: str) -> tuple[str, str]:
    """`GET /orders/{id}` as the path it may be, and as the route. Without a method it is for all."""
    method, _, route = ("", "", endpoint) if endpoint.startswith("/") else endpoint.partition(" ")
    route = route.strip()
    return f"{method} {route}", endpoint_key(method, route)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRules(f"{name} is no object")
    return cast("Mapping[str, Any]", value)


def _flag(fields: Mapping[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidRules(f"{name} is neither true nor false")


def _number(fields: Mapping[str, Any], name: str, highest: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= highest:
        return float(value)
    raise InvalidRules(f"{name} is no number from 0 to {highest:g}")


def _texts(fields: Mapping[str, Any], name: str) -> list[str]:
    value: Any = fields.get(name)
    if value is None:
        return []
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if all(isinstance(item, str) for item in items):
            return items
    raise InvalidRules(f"{name} is no list of texts")


def _time(fields: Mapping[str, Any]) -> float | None:
    """RFC 3339, or Unix seconds. Without zone: UTC."""
    value = fields.get("expires_at")
    if value is None:
        return None
    try:
        if isinstance(value, str):
            # fromisoformat reads no Z before Python 3.11.
            moment = datetime.fromisoformat(value.strip()[:64].replace("Z", "+00:00"))
            return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise InvalidRules("expires_at is no time")
