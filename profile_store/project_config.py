"""What an operator may set in a project's configuration: rules for its applications, limits for its senders.

The number of days that data is kept is not among it: to change that takes work (`set_retention`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias, cast

from otel_pyinstrument.path_patterns import BadPattern, PathPatterns
from profile_store.contracts import InvalidProject
from profile_store.project_names import has_forbidden_characters

MAX_ENDPOINTS = 500
MAX_ENDPOINT_CHARACTERS = 500
MAX_SLOW_THRESHOLD_SECONDS = 86_400
MAX_PER_SECOND = 10**12
MAX_JSON_BYTES = 65_536
"""Of one value. Applications take 256 KiB of rules."""

# As much of RFC 3339 as every supported Python reads.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}(\d{3})?)?(Z|[+-]\d\d:\d\d)", re.ASCII)

Check: TypeAlias = Callable[[str, Any], object]


def checked(changes: Mapping[str, object]) -> Mapping[str, object]:
    """`changes` of a project's configuration by name, as they were read from JSON; None removes a value.

    Raises:
        InvalidProject: the message names the field, what is wrong with it, and what is right.
    """
    for name in changes:
        if name not in _CHECKS:
            remedy = "use set-retention" if name == "retention_days" else f"there are {', '.join(_CHECKS)}"
            raise InvalidProject(f"{name[:100]!r} cannot be set in a config: {remedy}")
    return {name: None if value is None else _checked(name, value) for name, value in changes.items()}


def _checked(name: str, value: object) -> object:
    found = _CHECKS[name](name, value)
    size = len(json.dumps(found))
    if size > MAX_JSON_BYTES:
        raise InvalidProject(f"{name} takes {size} bytes as JSON: use at most {MAX_JSON_BYTES}")
    return found


def _flag(name: str, value: object) -> object:
    if not isinstance(value, bool):
        raise InvalidProject(f"{name} is {_shown(value)}: use true or false")
    return value


def _share(name: str, value: object) -> object:
    return _number(name, value, 1)


def _rate_limit(name: str, value: object) -> object:
    return _number(name, value, MAX_PER_SECOND)


def _number(name: str, value: object, highest: int) -> object:
    # A comparison that NaN does not stand.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
        raise InvalidProject(f"{name} is {_shown(value)}: use a number from 0 to {highest}")
    return value


def _patterns(name: str, value: object) -> object:
    if not _are_texts(value):
        raise InvalidProject(f'{name} is {_shown(value)}: use texts such as ["/health", "GET /api/*"]')
    patterns = cast("list[str]", value)
    try:
        PathPatterns(patterns)
    except BadPattern as problem:
        raise InvalidProject(f"{name}: {problem}") from None
    if any(map(has_forbidden_characters, patterns)):
        raise InvalidProject(f"{name}: a pattern has control characters or line breaks, remove them")
    return patterns


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in cast("list[object]", value))


def _endpoints(name: str, value: object) -> object:
    example = '{"GET /orders/{id}": {"sampling_rate": 1}}'
    if not isinstance(value, dict):
        raise InvalidProject(f"{name} is {_shown(value)}: use rules by endpoint such as {example}")
    rules = cast("dict[str, Any]", value)
    if len(rules) > MAX_ENDPOINTS:
        raise InvalidProject(f"{name} has {len(rules)} endpoints: use at most {MAX_ENDPOINTS}")
    return {endpoint: _rule(name, endpoint, rule) for endpoint, rule in rules.items()}


def _rule(name: str, endpoint: str, rule: object) -> Mapping[str, object]:
    place = f"{name}: {endpoint[:100]!r}"
    path = endpoint if endpoint.startswith("/") else endpoint.partition(" ")[2]
    if (
        len(endpoint) > MAX_ENDPOINT_CHARACTERS
        or not path.startswith("/")
        or has_forbidden_characters(endpoint)
    ):
        raise InvalidProject(f"{place} is no endpoint such as GET /orders/{{id}} or /orders/{{id}}")
    if not isinstance(rule, dict):
        raise InvalidProject(f'{place} has {_shown(rule)}: use an object such as {{"sampling_rate": 1}}')
    fields = cast("dict[str, Any]", rule)
    unknown = fields.keys() - _RULE_CHECKS.keys()
    if unknown:
        raise InvalidProject(f"{place} has {min(unknown)[:100]!r}: there are {', '.join(_RULE_CHECKS)}")
    return {field: _RULE_CHECKS[field](f"{place}: {field}", given) for field, given in fields.items()}


def _seconds(name: str, value: object) -> object:
    return _number(name, value, MAX_SLOW_THRESHOLD_SECONDS)


def _moment(name: str, value: object) -> object:
    try:
        if isinstance(value, str) and _MOMENT.fullmatch(value):
            datetime.fromisoformat(value)  # there are no 31 days in June
            return value
    except ValueError:
        pass
    raise InvalidProject(f"{name} is {_shown(value)}: use a time with its zone, such as 2027-01-31T12:00:00Z")


def _shown(value: object) -> str:
    return ascii(value)[:100]


_CHECKS: Mapping[str, Check] = {
    "enabled": _flag,
    "sampling_rate": _share,
    "include_patterns": _patterns,
    "exclude_paths": _patterns,
    "endpoint_configs": _endpoints,
    "max_spans_per_second": _rate_limit,
    "max_bytes_per_second": _rate_limit,
}

_RULE_CHECKS: Mapping[str, Check] = {
    "sampling_rate": _share,
    "slow_threshold": _seconds,
    "expires_at": _moment,
}
