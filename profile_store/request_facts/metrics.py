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
from profile_store.request_facts.measured import measured


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUsage:
    """Megabytes; None when the application did not measure it.

    The highest resident memory of the process that is known of the time of the request, and its change from
    start to end: of what Python allocated when the application traces that, else of the resident memory.
    """

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
    """`cache_time` in seconds. Hits and misses are None unless the spans of the cache tell them."""

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
    known = measured(detail.record)
    return PerformanceMetrics(
        total_duration=detail.record.duration,
        cpu_time=None if profile is None else profile.cpu_time,
        memory_usage=MemoryUsage(peak_memory=known.peak_memory, memory_delta=known.memory_delta),
        database_metrics=DatabaseMetrics(
            query_count=len(queries) or known.database.count,
            query_time=sum(queries) or known.database.duration,
            slow_queries=sum(duration >= SLOW_QUERY_SECONDS for duration in queries),
        ),
        cache_metrics=CacheMetrics(
            cache_calls=len(cache) or known.cache.count,
            cache_time=sum(cache) or known.cache.duration,
            cache_hits=known.cache.hits,
            cache_misses=known.cache.misses,
        ),
    )
