"""What is known of a set of requests. Everything in it can be added up, exactly and in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from otel_pyinstrument.call_tree import DEFAULT_LIMITS
from profile_store.rollups.histogram import LatencyHistogram

STATUS_CLASSES = 6
"""Without a status, then 1xx to 5xx."""

MAX_PER_REQUEST = DEFAULT_LIMITS.max_sum
"""So many microseconds of work (101 days), or calls, are believed of one request, as of one call tree.

A million such requests still sum to less than 2**63.
"""

_MAX_US = 2**62


@dataclass(slots=True, kw_only=True)
class Measures:
    """Counts and sums; times are integers of microseconds, so that adding them up loses nothing.

    `first_ms` and `last_ms` are the earliest and latest start of a request in milliseconds since 1970.
    `status_classes` counts requests without a status and with 1xx to 5xx. CPU and database times are known
    of profiled requests only: `cpu_requests` and `database_requests` say of how many.
    """

    count: int = 0
    failed: int = 0
    status_classes: list[int] = field(default_factory=lambda: [0] * STATUS_CLASSES)
    duration_us: int = 0
    min_us: int = 0
    max_us: int = 0
    first_ms: int = 0
    last_ms: int = 0
    profiles: int = 0
    cpu_us: int = 0
    cpu_requests: int = 0
    database_us: int = 0
    database_calls: int = 0
    database_requests: int = 0
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)

    @property
    def average_us(self) -> float | None:
        """Exact; None without requests."""
        return self.duration_us / self.count if self.count else None

    @property
    def error_rate(self) -> float | None:
        """Share of failed requests, exact; None without requests."""
        return self.failed / self.count if self.count else None

    def quantile_us(self, share: float) -> float | None:
        """See `LatencyHistogram.quantile_us`; never outside of the exact minimum and maximum."""
        value = self.latencies.quantile_us(share)
        return None if value is None else min(max(value, self.min_us), self.max_us)

    def merge(self, other: Measures) -> None:
        """Add another set of requests to this one."""
        if not other.count:
            return
        if self.count:
            self.min_us = min(self.min_us, other.min_us)
            self.first_ms = min(self.first_ms, other.first_ms)
            self.last_ms = max(self.last_ms, other.last_ms)
        else:
            self.min_us, self.first_ms, self.last_ms = other.min_us, other.first_ms, other.last_ms
        self.max_us = max(self.max_us, other.max_us)
        self.count += other.count
        self.failed += other.failed
        self.duration_us += other.duration_us
        self.profiles += other.profiles
        self.cpu_us += other.cpu_us
        self.cpu_requests += other.cpu_requests
        self.database_us += other.database_us
        self.database_calls += other.database_calls
        self.database_requests += other.database_requests
        for position, count in enumerate(other.status_classes):
            self.status_classes[position] += count
        self.latencies.merge(other.latencies)

    def as_row(self) -> list[Any]:
        """Integers only, to be stored as JSON."""
        return [
            *(getattr(self, name) for name in _COLUMNS),
            self.status_classes,
            self.latencies.as_pairs(),
        ]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Measures:
        """The inverse of `as_row`."""
        *numbers, status_classes, pairs = row
        return cls(
            **dict(zip(_COLUMNS, numbers, strict=True)),
            status_classes=list(status_classes),
            latencies=LatencyHistogram.from_pairs(pairs),
        )


_COLUMNS = (
    *("count", "failed", "duration_us", "min_us", "max_us", "first_ms", "last_ms"),
    *("profiles", "cpu_us", "cpu_requests", "database_us", "database_calls", "database_requests"),
)


def microseconds(seconds: object, *, at_most: int = _MAX_US) -> int:
    """Whole microseconds; what is no number of seconds from 0 to `at_most` microseconds counts as nothing."""
    # Compared before it is multiplied: a product may be infinite, and an integer larger than any float.
    if not isinstance(seconds, (int, float)) or not 0 <= seconds <= at_most / 1_000_000:
        return 0
    return round(seconds * 1_000_000)
