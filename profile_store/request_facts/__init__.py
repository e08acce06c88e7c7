"""What a record says about its request: derived from span attributes and child spans, secrets masked.

Pure functions of a `RecordDetail`, used by API and web. They read the current semantic conventions and the
ones before, because Python's instrumentations still send the old names unless told otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from profile_store.model import RecordDetail
from profile_store.request_facts.calls import ExternalCall, external_calls
from profile_store.request_facts.database import DatabaseQuery, database_queries
from profile_store.request_facts.errors import RequestError, request_errors
from profile_store.request_facts.http import RequestInfo, ResponseInfo, request_info, response_info
from profile_store.request_facts.metrics import (
    CacheMetrics,
    DatabaseMetrics,
    MemoryUsage,
    PerformanceMetrics,
    performance_metrics,
)
from profile_store.request_facts.process import (
    Runtime,
    ServerInfo,
    VersionInfo,
    runtime,
    server_info,
    version_info,
)

__all__ = [
    "CacheMetrics",
    "DatabaseMetrics",
    "DatabaseQuery",
    "ExternalCall",
    "MemoryUsage",
    "PerformanceMetrics",
    "RequestError",
    "RequestFacts",
    "RequestInfo",
    "ResponseInfo",
    "Runtime",
    "ServerInfo",
    "VersionInfo",
    "database_queries",
    "external_calls",
    "performance_metrics",
    "request_errors",
    "request_facts",
    "request_info",
    "response_info",
    "runtime",
    "server_info",
    "version_info",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """All facts of one request; the fields are named as in the API contract."""

    request_info: RequestInfo
    response_info: ResponseInfo
    performance_metrics: PerformanceMetrics
    database_queries: list[DatabaseQuery]
    external_calls: list[ExternalCall]
    errors: list[RequestError]
    server_info: ServerInfo
    runtime: Runtime
    version_info: VersionInfo


def request_facts(detail: RecordDetail) -> RequestFacts:
    """Everything at once."""
    return RequestFacts(
        request_info=request_info(detail),
        response_info=response_info(detail),
        performance_metrics=performance_metrics(detail),
        database_queries=database_queries(detail),
        external_calls=external_calls(detail),
        errors=request_errors(detail),
        server_info=server_info(detail),
        runtime=runtime(detail),
        version_info=version_info(detail),
    )
