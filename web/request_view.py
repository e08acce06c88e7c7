"""The request's own facts as the record page shows them: what was asked, what was queried, who was called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from profile_store.model import RecordDetail
from profile_store.request_facts import (
    DatabaseQuery,
    ExternalCall,
    RequestError,
    RequestFacts,
    request_facts,
)

ROWS_AT_MOST = 200
"""Statements and calls that are shown; the sums above the tables count all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """`facts` and `headers` are pairs in reading order, empty values left out. Times are seconds.

    `queries` and `calls` are the first `ROWS_AT_MOST`; the counts and sums beside them are of all.
    """

    address: str
    queries: Sequence[DatabaseQuery]
    query_count: int
    query_seconds: float
    calls: Sequence[ExternalCall]
    call_count: int
    call_seconds: float
    facts: Sequence[tuple[str, str]]
    headers: Sequence[tuple[str, str]]
    errors: Sequence[RequestError]


def request_view(detail: RecordDetail) -> RequestView:
    """Everything that the page says beside the profile; secrets are masked already."""
    facts = request_facts(detail)
    database = facts.performance_metrics.database_metrics
    query = urlencode(facts.request_info.query_params, doseq=True, safe="*/:,")
    return RequestView(
        address=f"{facts.request_info.path}?{query}" if query else facts.request_info.path,
        queries=facts.database_queries[:ROWS_AT_MOST],
        query_count=database.query_count,
        query_seconds=database.query_time,
        calls=facts.external_calls[:ROWS_AT_MOST],
        call_count=len(facts.external_calls),
        call_seconds=sum(call.duration for call in facts.external_calls),
        facts=_facts(detail, facts),
        headers=sorted(facts.request_info.headers.items()),
        errors=facts.errors,
    )


def _memory(facts: RequestFacts) -> str:
    """ "84 MB (+12.5 MB)": at the end, and the change during the request."""
    used, change = facts.server_info.memory_usage, facts.performance_metrics.memory_usage.memory_delta
    if used is None:
        return ""
    return f"{used:,.0f} MB" if change is None else f"{used:,.0f} MB ({change:+,.1f} MB)"


def _facts(detail: RecordDetail, facts: RequestFacts) -> list[tuple[str, str]]:
    server, request, response = facts.server_info, facts.request_info, facts.response_info
    python = facts.runtime.python_version
    values = {
        "reason": detail.record.profile.reason if detail.record.profile else "",
        "service": detail.record.service,
        "host": server.hostname,
        "process": "" if server.pid is None else str(server.pid),
        "runtime": f"Python {python}" if python else "",
        "framework": facts.runtime.framework_version,
        "memory": _memory(facts),
        "commit": facts.version_info.git_commit,
        "listener": facts.runtime.server_info,
        "client": request.remote_ip,
        "user_agent": request.user_agent,
        "content_type": response.content_type,
        "request_size": "" if request.request_size is None else str(request.request_size),
        "response_size": "" if response.response_size is None else str(response.response_size),
    }
    return [(name, value) for name, value in values.items() if value]
