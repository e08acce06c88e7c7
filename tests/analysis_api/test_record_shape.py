"""The shapes that clients rely on, field by field: a missing or renamed one breaks somebody."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from analysis_api.answers import json_response
from analysis_api.record_shape import record_body
from analysis_api.shapes import page_items, rfc3339, top_function
from otel_pyinstrument.call_tree import ROOT, CallTree
from profile_store.model import (
    ChildSpan,
    HotFunctionFacts,
    Page,
    ProfileFacts,
    Project,
    Record,
    RecordDetail,
    SpanEvent,
)

START = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
START_NANO = int(START.timestamp()) * 1_000_000_000

RECORD_FIELDS = {
    "": "id project_key trace_id span_id request_id endpoint path method status_code duration timestamp "
    "version environment server_info request_info response_info performance_metrics function_calls "
    "hot_functions database_queries external_calls errors warnings version_info runtime profile created_at",
    "server_info": "hostname pid memory_usage cpu_usage",
    "request_info": "method path query_params headers user_agent remote_ip request_size",
    "response_info": "status_code response_size content_type headers",
    "performance_metrics": "total_duration cpu_time memory_usage database_metrics cache_metrics",
    "performance_metrics.memory_usage": "peak_memory memory_delta",
    "performance_metrics.database_metrics": "query_count query_time slow_queries",
    "performance_metrics.cache_metrics": "cache_calls cache_hits cache_misses cache_time",
    "function_calls.0": "call_id parent_call_id depth call_order function module file line duration "
    "self_duration calls_count own_code children children_omitted",
    "hot_functions.0": "function module file line self_duration duration share",
    "database_queries.0": "query query_type count duration max_duration rows_affected failed_count system "
    "database caller",
    "external_calls.0": "service url method start duration status_code failed",
    "errors.0": "type message stacktrace timestamp",
    "version_info": "app_version git_commit deploy_time",
    "runtime": "python_version framework_version server_info",
    "profile": "sample_count node_count interval duration cpu_time reason truncated interrupted",
}


def a_project() -> Project:
    return Project(id="0" * 24, name="shop", project_key="opk_shop", created_at=START, updated_at=START)


def a_span(number: int, attributes: dict[str, Any], *, milliseconds: int) -> ChildSpan:
    start = START_NANO + number * 1_000_000
    return ChildSpan(
        trace_id=b"\1" * 16,
        span_id=number.to_bytes(8),
        parent_span_id=b"\1" * 8,
        name="GET",
        kind=3,
        start_time_unix_nano=start,
        end_time_unix_nano=start + milliseconds * 1_000_000,
        failed=False,
        scope="test",
        attributes=attributes,
    )


def a_detail(**changes: Any) -> RecordDetail:
    facts = ProfileFacts(
        sample_count=1,
        node_count=1,
        interval=0.01,
        duration=0.5,
        cpu_time=0.4,
        reason="slow",
        truncated=False,
        interrupted=False,
    )
    hot = HotFunctionFacts(
        function="pay",
        module="shop.pay",
        file="shop/pay.py",
        line=3,
        self_duration=0.4,
        duration=0.5,
        share=0.8,
    )
    record = Record(
        project_id="0" * 24,
        trace_id=b"\1" * 16,
        span_id=b"\1" * 8,
        parent_span_id=None,
        endpoint="POST /pay",
        method="POST",
        path="/pay",
        status_code=500,
        failed=True,
        duration=0.5,
        timestamp=START,
        start_time_unix_nano=START_NANO,
        version="1.2",
        attributes={
            "url.query": "order=7&token=hunter2",
            "http.request.header.x_request_id": ["req-9"],
            "http.request.header.authorization": ["Bearer hunter2"],
            "user_agent.original": "curl/8",
        },
        resource={"host.name": "web-1", "process.pid": 42, "process.runtime.name": "cpython"},
        events=[
            SpanEvent(
                name="exception",
                time_unix_nano=START_NANO + 400_000_000,
                attributes={"exception.type": "PaymentError", "exception.message": "declined"},
            )
        ],
        profile=facts,
        hot_functions=[hot],
        created_at=START + timedelta(seconds=3),
    )
    values: dict[str, Any] = {
        "record": record,
        "call_tree": CallTree(frames=[ROOT], parent=[-1], frame=[0], self_us=[500_000], samples=[1]),
        "child_spans": [
            a_span(2, {"db.system": "sqlite", "db.statement": "SELECT 1"}, milliseconds=5),
            a_span(3, {"http.request.method": "GET", "url.full": "http://bank.example/pay"}, milliseconds=30),
        ],
    }
    return RecordDetail(**{**values, **changes})


def as_json(detail: RecordDetail, **options: Any) -> dict[str, Any]:
    return json.loads(bytes(json_response(record_body(a_project(), detail, **options)).body))


@pytest.mark.parametrize("place", RECORD_FIELDS)
def test_a_record_has_exactly_the_fields_of_the_contract(place: str) -> None:
    found: Any = as_json(a_detail())
    for part in place.split(".") if place else ():
        found = found[int(part)] if part.isdigit() else found[part]
    assert set(found) == set(RECORD_FIELDS[place].split())


def test_facts_of_the_request_come_from_its_spans_and_hide_secrets() -> None:
    # When a failed request with a query and an outgoing call is shown
    body = as_json(a_detail())

    # Then each fact stands where clients look for it
    assert body["request_id"] == "req-9"
    assert body["request_info"]["query_params"] == {"order": ["7"], "token": ["***"]}
    assert body["server_info"]["pid"] == 42
    assert body["database_queries"][0]["count"] == 1
    assert body["performance_metrics"]["database_metrics"]["query_time"] == 0.005
    assert body["external_calls"][0]["duration"] == 0.03
    assert body["errors"] == [
        {
            "type": "PaymentError",
            "message": "declined",
            "stacktrace": "",
            "timestamp": "2026-11-21T10:30:00.400Z",
        }
    ]
    assert (body["timestamp"], body["created_at"]) == ("2026-11-21T10:30:00.000Z", "2026-11-21T10:30:03.000Z")
    assert "hunter2" not in json.dumps(body)


def test_what_a_record_lacks_is_named() -> None:
    assert as_json(a_detail())["warnings"] == []
    lacking = a_detail(call_tree=None, child_spans_truncated=True)
    assert as_json(lacking)["warnings"] == ["profile_missing", "child_spans_truncated"]
    assert as_json(lacking)["function_calls"] == []


def test_flat_calls_stand_where_nested_ones_do() -> None:
    calls = as_json(a_detail(), flat=True)["function_calls"]
    assert set(calls) == {"functions", "calls"}
    assert set(calls["functions"]) == {"function", "module", "file", "line", "own_code"}
    assert list(calls["calls"]) == [
        "call_id",
        "parent_call_id",
        "depth",
        "function_index",
        "duration",
        "self_duration",
        "calls_count",
    ]


def test_times_are_told_in_utc_with_milliseconds() -> None:
    moment = datetime(2026, 11, 21, 18, 30, 0, 123_999, tzinfo=timezone(timedelta(hours=8)))
    assert rfc3339(moment) == "2026-11-21T10:30:00.123Z"


@pytest.mark.parametrize(
    ("page", "total", "exact", "items", "expected"),
    [
        (1, 0, True, 0, (0, False, False)),
        (1, 20, True, 20, (1, False, False)),
        (1, 21, True, 20, (2, True, False)),
        (2, 21, True, 1, (2, False, True)),
        (500, 10_000, False, 20, (500, True, True)),
        (600, 10_000, False, 20, (500, True, True)),
        (600, 10_000, False, 3, (500, False, True)),
        (600, 10_000, False, 0, (500, False, True)),
    ],
)
def test_a_page_knows_whether_others_stand_around_it(
    page: int, total: int, exact: bool, items: int, expected: tuple[int, bool, bool]
) -> None:
    stored = Page(items=list(range(items)), page=page, page_size=20, total=total, total_is_exact=exact)
    pagination = page_items(stored, str)["pagination"]
    assert (pagination["total_pages"], pagination["has_next"], pagination["has_prev"]) == expected


def test_the_top_function_is_the_hottest_with_its_place() -> None:
    record = a_detail().record
    assert top_function(record) == "pay shop/pay.py:3"


def test_a_function_without_file_is_named_alone() -> None:
    hot = HotFunctionFacts(
        function="[other]", module="", file="", line=0, self_duration=1, duration=1, share=1
    )
    assert top_function(replace(a_detail().record, hot_functions=[hot])) == "[other]"
    assert top_function(replace(a_detail().record, hot_functions=[])) is None
