"""What the application measured itself, and how it joins what the spans say."""

from __future__ import annotations

import json

import pytest

from profile_store.request_facts import (
    database_queries,
    performance_metrics,
    runtime,
    server_info,
    version_info,
)
from profile_store.request_facts.measured import Measured, measured

CALLER = {"function": "load_items", "file": "shop/orders.py", "line": 41, "span": "0000000000000002"}
GROUP = {
    "name": "SELECT * FROM items WHERE order_id = ?",
    "system": "sqlite",
    "count": 40,
    "duration": 0.4,
    "max_duration": 0.02,
    "failed": 1,
    "callers": [CALLER],
}
FACTS = {
    "database": {"count": 41, "duration": 0.5, "groups": [GROUP]},
    "cache": {"count": 3, "duration": 0.003, "hits": 2, "misses": 1},
    "memory": {"rss": 84_000_000, "rss_delta": -2_500_000, "peak_rss": 90_000_000},
    "cpu": {"process_time": 0.2, "process_share": 0.25},
    "process": {"pid": 77, "host": "web-1"},
    "runtime": {"python": "3.12.1", "framework": "flask", "framework_version": "3.1.3"},
    "commit": "0123456",
}


def query(make, number: int, order: int, **changes):
    attributes = {"db.system": "sqlite", "db.statement": f"SELECT * FROM items WHERE order_id = {order}"}
    return make.child_span(number, attributes=attributes, **changes)


def test_a_query_names_the_line_that_the_application_saw(make) -> None:
    # Given the queries of an N+1 page, and the line that issued the second
    spans = [query(make, number, number) for number in range(1, 5)]
    [found] = database_queries(make.detail(*spans, facts=json.dumps(FACTS)))

    assert found.count == 4
    assert found.caller == "load_items (shop/orders.py:41)"


def test_a_statement_from_several_lines_names_them_all(make) -> None:
    callers = [CALLER, {"function": "", "file": "templates/orders.html", "line": 3, "span": "0" * 15 + "1"}]
    facts = {"database": {"groups": [GROUP | {"callers": callers}]}}

    [found] = database_queries(make.detail(query(make, 1, 1), query(make, 2, 2), facts=json.dumps(facts)))

    assert found.caller == "load_items (shop/orders.py:41), templates/orders.html:3"


def test_a_request_whose_query_spans_are_missing_has_what_was_counted(make) -> None:
    detail = make.detail(facts=json.dumps(FACTS))

    [found] = database_queries(detail)
    metrics = performance_metrics(detail)

    assert (found.query, found.query_type, found.count) == (GROUP["name"], "SELECT", 40)
    assert (found.duration, found.max_duration, found.failed_count) == (0.4, 0.02, 1)
    assert found.caller == "load_items (shop/orders.py:41)"
    assert (metrics.database_metrics.query_count, metrics.database_metrics.query_time) == (41, 0.5)
    assert (metrics.cache_metrics.cache_calls, metrics.cache_metrics.cache_time) == (3, 0.003)


def test_memory_process_and_release_are_told(make) -> None:
    detail = make.detail(facts=json.dumps(FACTS))

    memory = performance_metrics(detail).memory_usage
    cache = performance_metrics(detail).cache_metrics
    server = server_info(detail)

    assert (memory.peak_memory, memory.memory_delta) == (90.0, -2.5)
    assert (cache.cache_hits, cache.cache_misses) == (2, 1)
    assert (server.hostname, server.pid, server.memory_usage, server.cpu_usage) == ("web-1", 77, 84.0, 0.25)
    assert (runtime(detail).python_version, runtime(detail).framework_version) == ("3.12.1", "flask 3.1.3")
    assert version_info(detail).git_commit == "0123456"


def test_the_resource_is_believed_before_the_facts(make) -> None:
    resource = {"host.name": "pod-1", "process.pid": 5, "vcs.ref.head.revision": "abc"}
    detail = make.detail(facts=json.dumps(FACTS), resource=resource)

    assert (server_info(detail).hostname, server_info(detail).pid) == ("pod-1", 5)
    assert version_info(detail).git_commit == "abc"


@pytest.mark.parametrize(
    "facts",
    [
        "",
        "{",
        "[]",
        "1",
        "[" * 16_000,
        '{"database": []}',
        '{"database": {"count": -1, "duration": NaN, "groups": {"a": 1}}}',
        '{"database": {"count": true, "duration": 1e999, "groups": [1, null, {"callers": 5}]}}',
        '{"database": {"duration": ' + "9" * 400 + "}}",
        '{"memory": {"rss": "many", "rss_delta": 1e3}, "cpu": {"process_share": 7}, "process": "x"}',
    ],
)
def test_what_makes_no_sense_is_unknown(facts: str, make) -> None:
    detail = make.detail(query(make, 1, 1), facts=facts)

    assert [found.count for found in database_queries(detail)] == [1]
    known = measured(detail.record)
    assert (known.memory, known.cpu_share, known.database.duration) == (None, None, 0.0)
    assert known.database.count == 0


def test_a_caller_that_is_no_place_and_a_span_that_is_no_id_are_left_out(make) -> None:
    callers = [{"span": "xyz"}, {"function": 5, "file": "a.py", "line": "x", "span": "00"}, "text"]
    [group] = measured(
        make.record(facts=json.dumps({"database": {"groups": [GROUP | {"callers": callers}]}}))
    ).database.groups

    assert group.callers == ("a.py",)
    assert group.span_ids == {b"\0"}


def test_a_record_without_facts_knows_nothing(make) -> None:
    assert measured(make.record()) == Measured()


# --- one query, two instrumentations -----------------------------------------------------------------

SQLALCHEMY = "opentelemetry.instrumentation.sqlalchemy"


def lasting(make, number: int, order: int, start: int, end: int, **changes):
    """Start and end in microseconds after the request's start."""
    base = make.record().start_time_unix_nano
    times = {"start_time_unix_nano": base + start * 1_000, "end_time_unix_nano": base + end * 1_000}
    return query(make, number, order, **times, **changes)


@pytest.mark.parametrize("parent", [b"r" * 8, (1).to_bytes(8, "big")], ids=["siblings", "nested"])
def test_the_drivers_span_below_sqlalchemys_is_no_second_query(make, parent: bytes) -> None:
    outer = lasting(make, 1, 7, 0, 1_000, scope=SQLALCHEMY)
    driver = lasting(make, 2, 7, 100, 900, parent_span_id=parent)

    detail = make.detail(outer, driver, facts=json.dumps(FACTS))

    [found] = database_queries(detail)
    assert (found.count, found.duration) == (1, 0.001)
    assert performance_metrics(detail).database_metrics.query_count == 1
    # The line is known by the driver's span.
    assert found.caller == "load_items (shop/orders.py:41)"


def test_concurrent_queries_of_two_instrumentations_pair_up(make) -> None:
    spans = [
        lasting(make, 1, 1, 0, 2_000, scope=SQLALCHEMY),
        lasting(make, 2, 2, 50, 2_500, scope=SQLALCHEMY),
        lasting(make, 3, 1, 60, 1_500),
        lasting(make, 4, 2, 70, 1_800),
    ]

    [found] = database_queries(make.detail(*spans))

    assert (found.count, found.duration) == (2, pytest.approx(0.00445))


def test_queries_of_one_instrumentation_at_the_same_time_are_several(make) -> None:
    spans = [lasting(make, 1, 1, 0, 1_000), lasting(make, 2, 2, 100, 900)]

    assert database_queries(make.detail(*spans))[0].count == 2


def test_a_query_after_the_other_is_a_second_one(make) -> None:
    spans = [lasting(make, 1, 1, 0, 100, scope=SQLALCHEMY), lasting(make, 2, 1, 200, 300)]

    assert database_queries(make.detail(*spans))[0].count == 2


def test_taking_a_connection_is_no_query(make) -> None:
    span = make.child_span(1, name="connect", attributes={"db.system": "sqlite"}, scope=SQLALCHEMY)

    assert database_queries(make.detail(span)) == []
