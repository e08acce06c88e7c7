"""The numbers of one request."""

from __future__ import annotations

from dataclasses import dataclass

from otel_pyinstrument.statements import CACHE_SYSTEMS
from profile_store.model import RecordDetail
from profile_store.request_facts.database import (
    SLOW_QUERY_SECONDS,
    database_spans,
    system_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUsage:
    """Megabytes; None as long as no sender measures it."""

    peak_memory: float | None = None
    memory_delta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseMetrics:
    """`query_time` in seconds, summed over queries that may have run side by side."""

    query_count: int
    query_time: float
    slow_queries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMetrics:
    """`cache_time` in seconds. Hits and misses are None: the cache instrumentations do not tell them."""

    cache_calls: int
    cache_time: float
    cache_hits: int | None = None
    cache_misses: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceMetrics:
    """Seconds; `cpu_time` is None for a request without a profile."""

    total_duration: float
    cpu_time: float | None
    memory_usage: MemoryUsage
    database_metrics: DatabaseMetrics
    cache_metrics: CacheMetrics


def performance_metrics(detail: RecordDetail) -> PerformanceMetrics:
    """Totals of the request; a query counts as slow from `SLOW_QUERY_SECONDS` on."""
    queries = [span.duration for span in database_spans(detail)]
    cache = [span.duration for span in detail.child_spans if system_of(span.attributes) in CACHE_SYSTEMS]
    profile = detail.record.profile
    return PerformanceMetrics(
        total_duration=detail.record.duration,
        cpu_time=None if profile is None else profile.cpu_time,
        memory_usage=MemoryUsage(),
        database_metrics=DatabaseMetrics(
            query_count=len(queries),
            query_time=sum(queries),
            slow_queries=sum(duration >= SLOW_QUERY_SECONDS for duration in queries),
        ),
        cache_metrics=CacheMetrics(cache_calls=len(cache), cache_time=sum(cache)),
    )
