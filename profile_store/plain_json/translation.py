"""Parsed plain records to a batch for the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from otel_pyinstrument.call_tree import CallTree, encode
from profile_store.hot_functions import hot_function_facts
from profile_store.http_endpoints import METHODS, known_method, origin_by_path
from profile_store.model import (
    DEFAULT_RETENTION_DAYS,
    IncomingBatch,
    IncomingRecord,
    ProfileFacts,
    Project,
    Record,
)
from profile_store.plain_json.attributes import environment_of, told
from profile_store.plain_json.body import Sent
from profile_store.plain_json.calls import call_tree
from profile_store.plain_json.fields import Fields
from profile_store.plain_json.identity import ids_of
from profile_store.plain_json.problems import BadRecord, wrong

MAX_ENDPOINT_CHARACTERS = 200
MAX_PATH_CHARACTERS = 2_048
_MAX_NAME_CHARACTERS = 200
_MAX_METHOD_CHARACTERS = 20

CLOCK_TOLERANCE = timedelta(minutes=15)
"""How far a record may lie in the future before its time is refused."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Destination:
    """The project that a key names. `retention_days`: what is older would go at once, so it is refused."""

    project_id: str
    retention_days: int = DEFAULT_RETENTION_DAYS

    @classmethod
    def of(cls, project: Project) -> Destination:
        return cls(project.id, project.retention_days)


class _Endpoint(NamedTuple):
    """`name` groups requests. `is_declared`: the sender named it; otherwise it was made from the path."""

    name: str
    method: str
    path: str
    is_declared: bool


@dataclass(frozen=True, slots=True)
class Translated:
    """`places` says for every record of `batch` where it stood in the body; `refused` is by such places."""

    batch: IncomingBatch
    places: list[int]
    refused: Mapping[int, BadRecord]
    is_single: bool


def translate(
    sent: Sent,
    destinations: Mapping[str, Destination],
    *,
    arrival: datetime,
    path_template: Callable[[str], str],
    default: Destination | None = None,
) -> Translated:
    """The batch to store, and why records are not in it: one bad record takes no other with it.

    `destinations` holds the known keys of `sent.project_keys`; `default` is for records that name none.
    `path_template` makes the endpoint of a path for records that only tell their path. CPU-bound: about 60 us
    for a record and 20 us for each of its calls.
    """
    records: list[IncomingRecord] = []
    places: list[int] = []
    refused: dict[int, BadRecord] = {}
    for place, item in enumerate(sent.records):
        try:
            if isinstance(item, BadRecord):
                raise item
            record = Fields(item)
            destination = _destination(record, destinations, default)
            records.append(_incoming(record, destination, arrival, path_template))
            places.append(place)
        except BadRecord as problem:
            refused[place] = problem
    return Translated(IncomingBatch(records=records), places, refused, sent.is_single)


def _destination(
    record: Fields, destinations: Mapping[str, Destination], default: Destination | None
) -> Destination:
    # A key is a secret: no message repeats it, whatever it is.
    key = record.raw("project_key")
    if key is None or key == "":
        found, what = default, "project_key is missing"
    else:
        found = destinations.get(key) if isinstance(key, str) else None
        what = "project_key names no project"
    if found is None:
        raise BadRecord("unknown_project_key", f"{what}: send a valid key of the project")
    return found


def _incoming(
    record: Fields, destination: Destination, arrival: datetime, path_template: Callable[[str], str]
) -> IncomingRecord:
    duration = _duration(record)
    timestamp = _timestamp(record, duration, arrival, destination.retention_days)
    endpoint = _endpoint(record, path_template)
    status_code = _status_code(record)
    trace_id, span_id = ids_of(record, destination.project_id)
    known = told(record)
    tree = call_tree(record, duration)
    payload = None if tree is None else encode(tree).payload
    return IncomingRecord(
        record=Record(
            project_id=destination.project_id,
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=None,
            endpoint=endpoint.name,
            method=endpoint.method,
            path=endpoint.path,
            status_code=status_code,
            failed=(status_code or 0) >= 500,
            duration=duration,
            timestamp=timestamp,
            start_time_unix_nano=(timestamp - _EPOCH) // timedelta(microseconds=1) * 1_000,
            version=_version(record),
            environment=environment_of(record),
            attributes=known.attributes,
            resource=known.resource,
            facts=known.facts,
            profile=None if tree is None else _profile(record, tree),
            hot_functions=() if tree is None else hot_function_facts(tree),
        ),
        payload=payload,
        endpoint_origin="declared" if endpoint.is_declared else origin_by_path(status_code),
    )


def _duration(record: Fields) -> float:
    duration = record.seconds("duration")
    if duration is None:
        duration = record.object("performance_metrics").seconds("total_duration")
    if duration is None:
        raise BadRecord("record_format", "duration is missing: send the seconds that the request took")
    return duration


def _timestamp(record: Fields, duration: float, arrival: datetime, retention_days: int) -> datetime:
    """The start of the request; a record that does not tell it has just ended."""
    timestamp = record.time("timestamp")
    if timestamp is None:
        return arrival - timedelta(seconds=duration)
    if timestamp > arrival + CLOCK_TOLERANCE:
        raise wrong(
            "timestamp",
            record.raw("timestamp"),
            "that is in the future: set the clock of the sender, or send the zone of the time",
            reason="bad_timestamp",
        )
    if timestamp < arrival - timedelta(days=retention_days):
        raise wrong(
            "timestamp",
            record.raw("timestamp"),
            f"the project keeps {retention_days} days: raise its retention, or leave this record out",
            reason="expired",
        )
    return timestamp


def _endpoint(record: Fields, path_template: Callable[[str], str]) -> _Endpoint:
    """The endpoint begins with the method, also when the sender left it out.

    Who tells an endpoint and no path has the route as path, as far as it is one.
    """
    request = record.object("request_info")
    path = request.text("path", limit=MAX_PATH_CHARACTERS) or record.text("path", limit=MAX_PATH_CHARACTERS)
    method = record.text("method", limit=_MAX_METHOD_CHARACTERS) or request.text(
        "method", limit=_MAX_METHOD_CHARACTERS
    )
    method = method.upper()
    path = path.partition("?")[0]
    declared = " ".join(record.text("endpoint", limit=MAX_ENDPOINT_CHARACTERS).split())
    if not declared and not path:
        raise BadRecord(
            "record_format", "endpoint is missing: send it, such as GET /orders/{id}, or request_info.path"
        )
    first, _, rest = declared.partition(" ")
    if not method and rest.startswith("/") and (first.isalpha() or first.upper() in METHODS):
        method = first.upper()
    route = declared or path_template(path)
    if method and rest and first.upper() == method:
        route = rest
    method = known_method(method)
    name = f"{method} {route}" if method else route
    if not path:
        path = next((text for text in (declared, rest) if text.startswith("/")), "")
    return _Endpoint(name[: MAX_ENDPOINT_CHARACTERS + _MAX_METHOD_CHARACTERS], method, path, bool(declared))


def _status_code(record: Fields) -> int | None:
    for fields in (record, record.object("response_info")):
        status_code = fields.count("status_code", highest=599)
        if status_code is not None:
            if status_code < 100:
                raise wrong(fields.path("status_code"), status_code, "send an HTTP status from 100 to 599")
            return status_code
    return None


def _version(record: Fields) -> str:
    return (
        record.text("version", limit=_MAX_NAME_CHARACTERS)
        or record.object("metadata").text("version", limit=_MAX_NAME_CHARACTERS)
        or record.object("version_info").text("app_version", limit=_MAX_NAME_CHARACTERS)
    )


def _profile(record: Fields, tree: CallTree) -> ProfileFacts:
    return ProfileFacts(
        sample_count=tree.sample_count,
        node_count=tree.node_count,
        interval=0.0,
        duration=tree.duration_us / 1e6,
        cpu_time=record.object("performance_metrics").seconds("cpu_time"),
        reason="unknown",
        truncated=False,
        interrupted=False,
    )
