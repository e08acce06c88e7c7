"""The request's own facts as the record page shows them: what was asked, what was queried, who was called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profile_store.model import RecordDetail


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """An exception that the request recorded."""

    type: str
    message: str
    stacktrace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """`facts` and `headers` are pairs in reading order, empty values left out. Times are seconds."""

    address: str
    queries: Sequence[Any]
    query_count: int
    query_seconds: float
    calls: Sequence[Any]
    call_seconds: float
    facts: Sequence[tuple[str, str]]
    headers: Sequence[tuple[str, str]]
    errors: Sequence[ErrorView]


def request_view(detail: RecordDetail) -> RequestView:
    return RequestView(
        address=detail.record.path,
        queries=(),
        query_count=0,
        query_seconds=0,
        calls=(),
        call_seconds=0,
        facts=(),
        headers=(),
        errors=(),
    )
