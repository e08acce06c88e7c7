from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from profile_store.model import ChildSpan, Record, RecordDetail
from web.request_view import ROWS_AT_MOST, request_view

CLIENT = 3


def detail(*spans: ChildSpan, **changes: Any) -> RecordDetail:
    values: dict[str, Any] = {
        "project_id": "p",
        "trace_id": b"t" * 16,
        "span_id": b"s" * 8,
        "parent_span_id": None,
        "endpoint": "GET /orders",
        "method": "GET",
        "path": "/orders",
        "status_code": 200,
        "failed": False,
        "duration": 1.0,
        "timestamp": datetime(2026, 11, 21, tzinfo=UTC),
        "start_time_unix_nano": 0,
    } | changes
    return RecordDetail(record=Record(**values), call_tree=None, child_spans=spans)


def span(index: int, seconds: float, **attributes: str) -> ChildSpan:
    return ChildSpan(
        trace_id=b"t" * 16,
        span_id=index.to_bytes(8, "big"),
        parent_span_id=b"s" * 8,
        name="span",
        kind=CLIENT,
        start_time_unix_nano=index,
        end_time_unix_nano=index + int(seconds * 1e9),
        failed=False,
        scope="",
        attributes={name.replace("__", "."): value for name, value in attributes.items()},
    )


def test_a_request_that_says_nothing_shows_nothing() -> None:
    view = request_view(detail())
    assert view.address == "/orders"
    assert (view.queries, view.query_count, view.calls, view.call_count) == ([], 0, [], 0)
    assert list(view.facts) == []
    assert list(view.headers) == []


def test_the_same_statement_again_and_again_is_one_row() -> None:
    # Given a query that is sent for each of many orders
    spans = [
        span(index, 0.01, db__system="sqlite", db__statement=f"SELECT * FROM items WHERE order_id = {index}")
        for index in range(1, 101)
    ]

    # Then it is one row with the sum
    view = request_view(detail(*spans))
    assert len(view.queries) == 1
    assert view.queries[0].count == view.query_count == 100
    assert round(view.query_seconds, 6) == 1.0


def test_more_calls_than_anybody_reads_are_cut_but_counted() -> None:
    # Given a request that calls out a thousand times
    spans = [
        span(index, 0.001, http__request__method="GET", url__full=f"http://supplier/{index}")
        for index in range(1, 1_001)
    ]

    # Then the sums are of all
    view = request_view(detail(*spans))
    assert len(view.calls) == ROWS_AT_MOST
    assert view.call_count == 1_000
    assert round(view.call_seconds, 6) == 1.0


def test_the_address_has_its_query_with_secrets_masked() -> None:
    view = request_view(detail(attributes={"url.query": "page=2&token=hunter2&name=a b"}))
    assert view.address == "/orders?page=2&token=***&name=a+b"


def test_memory_and_framework_are_shown_when_they_are_known() -> None:
    facts = {"memory": {"rss": 84_000_000, "rss_delta": 2_500_000}}
    framework = {"runtime": {"framework": "flask", "framework_version": "3.1.3"}}

    view = request_view(detail(facts=json.dumps(facts | framework)))

    assert dict(view.facts) == {"framework": "flask 3.1.3", "memory": "84 MB (+2.5 MB)"}
    assert dict(request_view(detail(facts='{"memory": {"rss": 1000000}}')).facts) == {"memory": "1 MB"}
