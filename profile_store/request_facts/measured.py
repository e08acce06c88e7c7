"""What the application itself measured of a request: `pyinstrument.facts` of docs/wire-format.md.

A sender wrote it, so every value may be missing or of any type; what makes no sense is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

from profile_store.model import Attributes, AttributeValue, Record
from profile_store.request_facts.attribute_access import integer, text

_MAX_GROUPS = 100
_MAX_CALLERS = 10
_BYTES_PER_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredGroup:
    """All calls of one statement. Seconds; `callers` are "function (file:line)", `span_ids` examples."""

    name: str
    system: str
    count: int
    duration: float
    max_duration: float
    failed_count: int
    callers: tuple[str, ...]
    span_ids: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCalls:
    """All calls of one category, those without a group too."""

    count: int = 0
    duration: float = 0.0
    hits: int | None = None
    misses: int | None = None
    groups: tuple[MeasuredGroup, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Memory in megabytes, shares from 0 to 1; empty texts and None for what is not known."""

    database: MeasuredCalls = field(default_factory=MeasuredCalls)
    cache: MeasuredCalls = field(default_factory=MeasuredCalls)
    memory: float | None = None
    peak_memory: float | None = None
    memory_delta: float | None = None
    cpu_share: float | None = None
    pid: int | None = None
    host: str = ""
    python: str = ""
    framework: str = ""
    commit: str = ""


_UNKNOWN = Measured()


def measured(record: Record) -> Measured:
    """The facts of a record; all unknown when it has none or they cannot be read."""
    return _read(record.facts) if record.facts else _UNKNOWN


@lru_cache(maxsize=4)
def _read(facts: str) -> Measured:
    try:
        whole: object = json.loads(facts)
    except (ValueError, RecursionError):
        return _UNKNOWN
    if not isinstance(whole, dict):
        return _UNKNOWN
    members = cast("dict[str, AttributeValue]", whole)
    memory, process, runtime = (_object(members, name) for name in ("memory", "process", "runtime"))
    framework = f"{text(runtime, 'framework')} {text(runtime, 'framework_version')}"
    return Measured(
        database=_calls(_object(members, "database")),
        cache=_calls(_object(members, "cache")),
        memory=_megabytes(memory, "rss"),
        peak_memory=_megabytes(memory, "peak_rss"),
        memory_delta=_megabytes(memory, "traced_delta", "rss_delta"),
        cpu_share=_number(_object(members, "cpu"), "process_share", highest=1.0),
        pid=_count(process, "pid"),
        host=text(process, "host"),
        python=text(runtime, "python"),
        framework=framework.strip(),
        commit=text(members, "commit"),
    )


def _calls(calls: Attributes) -> MeasuredCalls:
    return MeasuredCalls(
        count=_count(calls, "count") or 0,
        duration=_number(calls, "duration") or 0.0,
        hits=_count(calls, "hits"),
        misses=_count(calls, "misses"),
        groups=tuple(_group(group) for group in _objects(calls, "groups", _MAX_GROUPS)),
    )


def _group(group: Attributes) -> MeasuredGroup:
    callers = list(_objects(group, "callers", _MAX_CALLERS))
    return MeasuredGroup(
        name=text(group, "name"),
        system=text(group, "system").lower(),
        count=_count(group, "count") or 0,
        duration=_number(group, "duration") or 0.0,
        max_duration=_number(group, "max_duration") or 0.0,
        failed_count=_count(group, "failed") or 0,
        callers=tuple(place for caller in callers if (place := _place(caller))),
        span_ids=frozenset(span_id for caller in callers if (span_id := _span_id(text(caller, "span")))),
    )


def _place(caller: Attributes) -> str:
    function, file, line = text(caller, "function"), text(caller, "file"), _count(caller, "line")
    place = f"{file}:{line}" if file and line is not None else file
    return f"{function} ({place})" if function and place else function or place


def _span_id(digits: str) -> bytes | None:
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return None


def _object(members: Attributes, name: str) -> Attributes:
    value = members.get(name)
    return cast("Attributes", value) if isinstance(value, dict) else {}


def _objects(members: Attributes, name: str, at_most: int) -> Iterator[Attributes]:
    values = members.get(name)
    if isinstance(values, list):
        for value in cast("list[object]", values)[:at_most]:
            if isinstance(value, dict):
                yield cast("Attributes", value)


def _count(members: Attributes, name: str) -> int | None:
    value = integer(members, name)
    return value if value is not None and value >= 0 else None


def _number(members: Attributes, name: str, *, highest: float = math.inf) -> float | None:
    value = members.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= highest:
        return None
    return float(value) if value < 1e300 else None  # an infinite one, or an integer beyond any float


def _megabytes(members: Attributes, *names: str) -> float | None:
    value = integer(members, *names)
    return None if value is None else value / _BYTES_PER_MEGABYTE
