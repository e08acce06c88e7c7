"""One performance record in full, as a JSON body. Field names and units are public contract."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic reads typing.TypedDict from Python 3.12 on only

from analysis_api.call_shapes import Call, FlatCalls, flat_calls, nested_calls
from analysis_api.shapes import rfc3339, rfc3339_or_none
from profile_store.model import Project, RecordDetail


class ProfileBody(TypedDict):
    """How the call tree was taken. `interval`, `duration` and `cpu_time` are in seconds."""

    sample_count: int
    node_count: int
    interval: float
    duration: float
    cpu_time: float | None
    reason: str
    truncated: bool
    interrupted: bool


class HotFunctionBody(TypedDict):
    """A function that time is charged to. Durations are in seconds, `share` is from 0 to 1."""

    function: str
    module: str
    file: str
    line: int
    self_duration: float
    duration: float
    share: float


class RecordBody(TypedDict):
    """A request with everything known about it. `duration` is in seconds, times are RFC 3339 in UTC.

    `function_calls` is empty without a profile, a list with one root when nested, columns when flat.
    """

    id: str
    project_key: str
    trace_id: str
    span_id: str
    endpoint: str
    path: str
    method: str
    status_code: int | None
    duration: float
    timestamp: str
    version: str
    environment: str
    function_calls: list[Call] | FlatCalls
    hot_functions: list[HotFunctionBody]
    profile: ProfileBody | None
    created_at: str | None


def record_body(project: Project, detail: RecordDetail, *, node: int = 0, flat: bool = False) -> RecordBody:
    """A record in full. The call tree begins at `node`, which must exist."""
    record = detail.record
    return {
        "id": record.id,
        "project_key": project.project_key,
        "trace_id": record.trace_id.hex(),
        "span_id": record.span_id.hex(),
        "endpoint": record.endpoint,
        "path": record.path,
        "method": record.method,
        "status_code": record.status_code,
        "duration": record.duration,
        "timestamp": rfc3339(record.timestamp),
        "version": record.version,
        "environment": record.environment,
        "function_calls": function_calls(detail, node=node, flat=flat),
        "hot_functions": [
            {
                "function": hot.function,
                "module": hot.module,
                "file": hot.file,
                "line": hot.line,
                "self_duration": hot.self_duration,
                "duration": hot.duration,
                "share": hot.share,
            }
            for hot in record.hot_functions
        ],
        "profile": profile_body(detail),
        "created_at": rfc3339_or_none(record.created_at),
    }


def function_calls(detail: RecordDetail, *, node: int, flat: bool) -> list[Call] | FlatCalls:
    """The call tree in the form asked for; an empty list without one."""
    if detail.call_tree is None:
        return []
    return flat_calls(detail.call_tree, node) if flat else nested_calls(detail.call_tree, node)


def profile_body(detail: RecordDetail) -> ProfileBody | None:
    """How the call tree was taken; None when the request was not profiled."""
    facts = detail.record.profile
    if facts is None:
        return None
    return {
        "sample_count": facts.sample_count,
        "node_count": facts.node_count,
        "interval": facts.interval,
        "duration": facts.duration,
        "cpu_time": facts.cpu_time,
        "reason": facts.reason,
        "truncated": facts.truncated,
        "interrupted": facts.interrupted,
    }
