"""Projects, records and pages as JSON bodies; field names and units are the public contract of the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from typing_extensions import TypedDict  # pydantic reads typing.TypedDict from Python 3.12 on only

from analysis_api.answers import Items
from profile_store.model import Page, Project, ProjectStatistics, Record

Stored = TypeVar("Stored")
Body = TypeVar("Body")


class KeyBody(TypedDict):
    """A valid key of a project: its beginning. Times are RFC 3339 in UTC; without an end it is null."""

    prefix: str
    created_at: str
    expires_at: str | None


class ProjectSummary(TypedDict):
    """A project in a list. Times are RFC 3339 in UTC.

    `project_key` is what parameters of this name take: the key in the answer that made the project, the only
    time that it can be seen, and the id ever after.
    """

    id: str
    name: str
    project_key: str
    keys: list[KeyBody]
    description: str
    framework: str
    base_url: str
    status: str
    created_at: str
    updated_at: str
    last_activity: str | None
    config: dict[str, Any]


class StatisticsBody(TypedDict):
    """Numbers of the last 24 hours; times in milliseconds, rates from 0 to 1, null without requests."""

    total_requests: int
    avg_response_time: float | None
    p95_response_time: float | None
    error_rate: float | None
    last_request_time: str | None


class ProjectBody(ProjectSummary):
    """A project with its numbers."""

    statistics: StatisticsBody


class RecordItem(TypedDict):
    """A record in a list. `duration` is in seconds; `top_function` took most time, null without profile."""

    id: str
    trace_id: str
    endpoint: str
    path: str
    method: str
    duration: float
    status_code: int | None
    timestamp: str
    version: str
    environment: str
    has_profile: bool
    top_function: str | None


def rfc3339(moment: datetime) -> str:
    """2026-11-21T10:30:00.123Z"""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rfc3339_or_none(moment: datetime | None) -> str | None:
    """As `rfc3339`."""
    return None if moment is None else rfc3339(moment)


def page_items(page: Page[Stored], shape: Callable[[Stored], Body]) -> Items[Body]:
    """A page of the store with every item shaped. A list without items has no pages."""
    total_pages = -(-page.total // page.page_size)
    # Beyond the number that the store counts to, only a full page hints at a next one.
    beyond_count = not page.total_is_exact and len(page.items) == page.page_size
    return {
        "items": [shape(item) for item in page.items],
        "pagination": {
            "page": page.page,
            "page_size": page.page_size,
            "total": page.total,
            "total_is_exact": page.total_is_exact,
            "total_pages": total_pages,
            "has_next": page.page < total_pages or beyond_count,
            "has_prev": page.page > 1,
        },
    }


def project_summary(project: Project) -> ProjectSummary:
    """A project without its numbers, which cost an aggregation."""
    return {
        "id": project.id,
        "name": project.name,
        "project_key": project.project_key,
        "keys": [
            {
                "prefix": key.prefix,
                "created_at": rfc3339(key.created_at),
                "expires_at": rfc3339_or_none(key.expires_at),
            }
            for key in project.keys
        ],
        "description": project.description,
        "framework": project.framework,
        "base_url": project.base_url,
        "status": project.status,
        "created_at": rfc3339(project.created_at),
        "updated_at": rfc3339(project.updated_at),
        "last_activity": rfc3339_or_none(project.last_activity),
        "config": dict(project.config),
    }


def project_body(project: Project, statistics: ProjectStatistics) -> ProjectBody:
    """A project with its numbers."""
    return {
        **project_summary(project),
        "statistics": {
            "total_requests": statistics.total_requests,
            "avg_response_time": statistics.avg_response_time,
            "p95_response_time": statistics.p95_response_time,
            "error_rate": statistics.error_rate,
            "last_request_time": rfc3339_or_none(statistics.last_request_time),
        },
    }


def record_item(record: Record) -> RecordItem:
    """A record in a list."""
    return {
        "id": record.id,
        "trace_id": record.trace_id.hex(),
        "endpoint": record.endpoint,
        "path": record.path,
        "method": record.method,
        "duration": record.duration,
        "status_code": record.status_code,
        "timestamp": rfc3339(record.timestamp),
        "version": record.version,
        "environment": record.environment,
        "has_profile": record.profile is not None,
        "top_function": top_function(record),
    }


def top_function(record: Record) -> str | None:
    """`load_orders shop/orders.py:41`; None without a profile."""
    for hot in record.hot_functions:
        return f"{hot.function} {hot.file}:{hot.line}" if hot.file else hot.function
    return None
