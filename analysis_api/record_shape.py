"""One performance record in full, as a JSON body. Field names and units are public contract.

What the store's values name already in the contract's words goes into the answer as it is.
"""

from __future__ import annotations

from datetime import UTC, datetime

from typing_extensions import TypedDict  # pydantic reads typing.TypedDict from Python 3.12 on only

from analysis_api.call_shapes import Call, FlatCalls, flat_calls, nested_calls
from analysis_api.shapes import rfc3339, rfc3339_or_none
from profile_store.model import HotFunctionFacts, ProfileFacts, Project, RecordDetail
from profile_store.request_facts import (
    DatabaseQuery,
    ExternalCall,
    PerformanceMetrics,
    RequestError,
    RequestInfo,
    ResponseInfo,
    Runtime,
    ServerInfo,
    VersionInfo,
    request_facts,
)


class ErrorBody(TypedDict):
    """An exception that the request recorded."""

    type: str
    message: str
    stacktrace: str
    timestamp: str


class RecordBody(TypedDict):
    """A request with everything known about it. `duration` is in seconds, times are RFC 3339 in UTC.

    `function_calls` is empty without a profile, a list with one root when nested, columns when flat.
    `warnings` are names of what is missing: profile_truncated, profile_interrupted, profile_missing,
    child_spans_truncated.
    """

    id: str
    project_key: str
    trace_id: str
    span_id: str
    request_id: str
    endpoint: str
    path: str
    method: str
    status_code: int | None
    duration: float
    timestamp: str
    version: str
    environment: str
    server_info: ServerInfo
    request_info: RequestInfo
    response_info: ResponseInfo
    performance_metrics: PerformanceMetrics
    function_calls: list[Call] | FlatCalls
    hot_functions: list[HotFunctionFacts]
    database_queries: list[DatabaseQuery]
    external_calls: list[ExternalCall]
    errors: list[ErrorBody]
    warnings: list[str]
    version_info: VersionInfo
    runtime: Runtime
    profile: ProfileFacts | None
    created_at: str | None


def record_body(project: Project, detail: RecordDetail, *, node: int = 0, flat: bool = False) -> RecordBody:
    """A record in full. The call tree begins at `node`, which must exist."""
    record = detail.record
    facts = request_facts(detail)
    return {
        "id": record.id,
        "project_key": project.project_key,
        "trace_id": record.trace_id.hex(),
        "span_id": record.span_id.hex(),
        # Known only if the application's instrumentation captures this header.
        "request_id": facts.request_info.headers.get("x-request-id", ""),
        "endpoint": record.endpoint,
        "path": record.path,
        "method": record.method,
        "status_code": record.status_code,
        "duration": record.duration,
        "timestamp": rfc3339(record.timestamp),
        "version": record.version,
        "environment": record.environment,
        "server_info": facts.server_info,
        "request_info": facts.request_info,
        "response_info": facts.response_info,
        "performance_metrics": facts.performance_metrics,
        "function_calls": function_calls(detail, node=node, flat=flat),
        "hot_functions": list(record.hot_functions),
        "database_queries": facts.database_queries,
        "external_calls": facts.external_calls,
        "errors": [error_body(error) for error in facts.errors],
        "warnings": record_warnings(detail),
        "version_info": facts.version_info,
        "runtime": facts.runtime,
        "profile": record.profile,
        "created_at": rfc3339_or_none(record.created_at),
    }


def function_calls(detail: RecordDetail, *, node: int, flat: bool) -> list[Call] | FlatCalls:
    """The call tree in the form asked for; an empty list without one."""
    if detail.call_tree is None:
        return []
    return flat_calls(detail.call_tree, node) if flat else nested_calls(detail.call_tree, node)


def error_body(error: RequestError) -> ErrorBody:
    """An exception with its time in words."""
    moment = datetime.fromtimestamp(error.time_unix_nano / 1e9, UTC)
    return {
        "type": error.type,
        "message": error.message,
        "stacktrace": error.stacktrace,
        "timestamp": rfc3339(moment),
    }


def record_warnings(detail: RecordDetail) -> list[str]:
    """Names of what the record lacks, for whoever draws conclusions from it."""
    profile = detail.record.profile
    findings = {
        "profile_truncated": profile is not None and profile.truncated,
        "profile_interrupted": profile is not None and profile.interrupted,
        "profile_missing": profile is not None and detail.call_tree is None,
        "child_spans_truncated": detail.child_spans_truncated,
    }
    return [name for name, found in findings.items() if found]
