"""The record list's filters: from the query string to a store query, and back into links."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from profile_store.model import RecordQuery
from web.paging import page_number

PAGE_SIZE = 50
RANGES = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
"""Value of the `range` filter -> how far back; no value means all."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
Sort: TypeAlias = Literal["-timestamp", "timestamp", "-duration", "duration"]
_SORTS: dict[str, Sort] = {
    "-timestamp": "-timestamp",
    "timestamp": "timestamp",
    "-duration": "-duration",
    "duration": "duration",
}
_TEXT_LIMIT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilters:
    """The form as the user sees it: texts, empty when unused; `errors` names fields that make no sense."""

    endpoint: str = ""
    method: str = ""
    status: str = ""
    version: str = ""
    environment: str = ""
    min_duration_ms: str = ""
    range: str = ""
    profiled: bool = False
    sort: Sort = "-timestamp"
    page: int = 1
    errors: frozenset[str] = frozenset()

    @property
    def in_use(self) -> bool:
        """Whether anything narrows the list."""
        return bool(self._texts() or self.profiled)

    def store_query(self, project_id: str, now: datetime) -> RecordQuery | None:
        """The store's query, with `range` counted back from `now`; None when a field makes no sense."""
        if self.errors:
            return None
        return RecordQuery(
            project_id=project_id,
            endpoint=self.endpoint or None,
            method=self.method or None,
            status=_status(self.status),
            version=self.version or None,
            environment=self.environment or None,
            min_duration=float(self.min_duration_ms) / 1000 if self.min_duration_ms else None,
            start_time=now - RANGES[self.range] if self.range else None,
            profiled=True if self.profiled else None,
            sort=self.sort,
            page=self.page,
            page_size=PAGE_SIZE,
        )

    def parameters(self) -> dict[str, str]:
        """The query string that leads to these filters again; defaults are left out."""
        values = self._texts()
        if self.profiled:
            values["profiled"] = "1"
        if self.sort != "-timestamp":
            values["sort"] = self.sort
        if self.page > 1:
            values["page"] = str(self.page)
        return values

    def with_page(self, page: int) -> dict[str, str]:
        """Parameters of another page of the same list."""
        return replace(self, page=page).parameters()

    def sorted_by(self, field: Literal["timestamp", "duration"]) -> dict[str, str]:
        """Parameters of the same list by `field`, largest first; smallest first when it is so already."""
        descending: Sort = "-timestamp" if field == "timestamp" else "-duration"
        sort: Sort = field if self.sort == descending else descending
        return replace(self, sort=sort, page=1).parameters()

    def _texts(self) -> dict[str, str]:
        names = ("endpoint", "method", "status", "version", "environment", "min_duration_ms", "range")
        return {name: value for name in names if (value := str(getattr(self, name)))}


def parse(query: Mapping[str, str]) -> RecordFilters:
    """Read the form; never raises. Unknown parameters are passed over, senseless values named in `errors`."""

    def text(name: str) -> str:
        return query.get(name, "").strip()[:_TEXT_LIMIT]

    filters = RecordFilters(
        endpoint=text("endpoint"),
        method=text("method").upper(),
        status=text("status"),
        version=text("version"),
        environment=text("environment"),
        min_duration_ms=text("min_duration_ms"),
        range=text("range"),
        profiled=text("profiled") == "1",
        sort=_SORTS.get(text("sort"), "-timestamp"),
        page=page_number(query),
    )
    return replace(filters, errors=frozenset(_errors(filters)))


def now() -> datetime:
    """The moment that ranges are counted back from."""
    return datetime.now(UTC)


def _errors(filters: RecordFilters) -> list[str]:
    checks = {
        "status": not filters.status or _status(filters.status) is not None,
        "min_duration_ms": not filters.min_duration_ms or _is_duration(filters.min_duration_ms),
        "range": not filters.range or filters.range in RANGES,
    }
    return [name for name, valid in checks.items() if not valid]


def _status(text: str) -> Literal["ok", "failed"] | int | None:
    if text in ("ok", "failed"):
        return text
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() else None


def _is_duration(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and 0 <= value <= 1e9
