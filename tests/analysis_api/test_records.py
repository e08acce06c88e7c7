from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_pyinstrument.call_tree import ROOT, CallTree, Frame
from profile_store.model import IncomingBatch, IncomingChildSpans

VIEW = Frame("orders_page", "shop/views.py", 10, True)
QUERY = Frame("load_orders", "shop/orders.py", 41, True)

RECORDS = "/api/v1/performance/records"


def small_tree() -> CallTree:
    return CallTree(
        frames=[ROOT, VIEW, QUERY],
        parent=[-1, 0, 1],
        frame=[0, 1, 2],
        self_us=[50_000, 300_000, 650_000],
        samples=[5, 30, 65],
    )


def chain(depth: int) -> CallTree:
    return CallTree(
        frames=[ROOT, VIEW],
        parent=list(range(-1, depth)),
        frame=[0] + [1] * depth,
        self_us=[0] * depth + [1_000],
        samples=[0] * depth + [1],
    )


def ids(response: Any) -> list[str]:
    return [item["id"] for item in response.json()["data"]["items"]]


def test_a_list_item_says_what_a_list_shows(api: Any) -> None:
    # Given a profiled request
    project = api.project()
    record = api.store_record(project, tree=small_tree())

    # When records are listed
    response = api.get(RECORDS, params={"project_key": project.project_key})

    # Then the item has exactly the fields of a list item
    assert response.json()["data"]["items"] == [
        {
            "id": record.id,
            "trace_id": record.trace_id.hex(),
            "endpoint": "GET /orders",
            "path": "/orders",
            "method": "GET",
            "duration": 0.1,
            "status_code": 200,
            "timestamp": record.timestamp.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "version": "1.0",
            "environment": "production",
            "has_profile": True,
            "top_function": "load_orders shop/orders.py:41",
        }
    ]


def test_records_are_listed_newest_first_and_sorted_as_asked(api: Any) -> None:
    # Given three requests, the later the longer but for one
    project = api.project()
    first, second, third = (api.store_record(project, duration=duration) for duration in (0.2, 0.9, 0.4))

    def listed(**parameters: str) -> list[str]:
        return ids(api.get(RECORDS, params={"project_key": project.id, **parameters}))

    # Then each order is the one asked for
    assert listed() == [third.id, second.id, first.id]
    assert listed(sort="timestamp") == [first.id, second.id, third.id]
    assert listed(sort="-duration") == [second.id, third.id, first.id]
    assert listed(sort="duration") == [first.id, third.id, second.id]


@pytest.mark.parametrize(
    ("parameters", "changes"),
    [
        ({"endpoint": "POST /cart/{id}"}, {"endpoint": "POST /cart/{id}"}),
        ({"method": "POST"}, {"method": "POST"}),
        ({"status": "failed"}, {"failed": True, "status_code": 500}),
        ({"status": "503"}, {"failed": True, "status_code": 503}),
        ({"version": "2.0"}, {"version": "2.0"}),
        ({"environment": "试验"}, {"environment": "试验"}),
        ({"min_duration": "5"}, {"duration": 5.0}),
        ({"profiled": "true"}, {"tree": small_tree()}),
    ],
)
def test_each_filter_finds_its_record_and_no_other(
    api: Any, parameters: dict[str, str], changes: dict[str, Any]
) -> None:
    # Given one request that differs from two others
    project = api.project()
    api.store_record(project)
    wanted = api.store_record(project, **changes)
    api.store_record(project)

    # When it is asked for
    response = api.get(RECORDS, params={"project_key": project.project_key, **parameters})

    # Then it alone comes
    assert ids(response) == [wanted.id]


def test_the_opposites_of_failed_and_profiled_can_be_asked_for(api: Any) -> None:
    project = api.project()
    plain = api.store_record(project)
    api.store_record(project, failed=True, tree=small_tree())
    assert ids(api.get(RECORDS, params={"project_key": project.id, "status": "ok"})) == [plain.id]
    assert ids(api.get(RECORDS, params={"project_key": project.id, "profiled": "false"})) == [plain.id]


def test_a_time_range_includes_its_start_and_excludes_its_end(api: Any) -> None:
    # Given three requests, one second apart
    project = api.project()
    first, second, third = (api.store_record(project) for _ in range(3))

    # When the range from the second to the third is asked for, in another zone
    zone = timedelta(hours=8)
    times = [(record.timestamp + zone).strftime("%Y-%m-%dT%H:%M:%S+08:00") for record in (second, third)]
    response = api.get(
        RECORDS, params={"project_key": project.id, "start_time": times[0], "end_time": times[1]}
    )

    # Then the second alone comes
    assert first.id != second.id
    assert ids(response) == [second.id]


def test_pages_of_records_do_not_overlap(api: Any) -> None:
    # Given seven requests at the same moment
    project = api.project()
    moment = api.store_record(project).timestamp
    for _ in range(6):
        api.store_record(project, timestamp=moment)

    # When they are read three by three
    pages = [
        api.get(RECORDS, params={"project_key": project.id, "page": page, "page_size": 3})
        for page in (1, 2, 3, 4)
    ]

    # Then each comes once
    assert [len(ids(page)) for page in pages] == [3, 3, 1, 0]
    assert len({item for page in pages for item in ids(page)}) == 7
    assert [page.json()["data"]["pagination"]["has_next"] for page in pages] == [True, True, False, False]


def test_another_projects_records_are_not_shown(api: Any) -> None:
    # Given a request of one project
    shop, stock = api.project("shop"), api.project("stock")
    record = api.store_record(shop, tree=small_tree())

    # When the other one asks
    # Then it sees nothing
    assert ids(api.get(RECORDS, params={"project_key": stock.id})) == []
    response = api.get(f"{RECORDS}/{record.id}", params={"project_key": stock.id})
    assert (response.status_code, response.json()["code"]) == (404, 1001)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "project_key"),
        ({"project_key": ""}, "project_key"),
        ({"project_key": "x", "page": "0"}, "page"),
        ({"project_key": "x", "page": "1e3"}, "page"),
        ({"project_key": "x", "page": "9" * 30}, "page"),
        ({"project_key": "x", "page_size": "101"}, "page_size"),
        ({"project_key": "x", "status": "600"}, "status"),
        ({"project_key": "x", "status": "2xx"}, "status"),
        ({"project_key": "x", "status": "٢٠٠"}, "status"),
        ({"project_key": "x", "status": "9" * 5_000}, "status"),
        ({"project_key": "x", "min_duration": "-1"}, "min_duration"),
        ({"project_key": "x", "min_duration": "nan"}, "min_duration"),
        ({"project_key": "x", "min_duration": "1e999"}, "min_duration"),
        ({"project_key": "x", "start_time": "yesterday"}, "start_time"),
        ({"project_key": "x", "start_time": "2026-11-21T10:00:00"}, "start_time"),
        ({"project_key": "x", "start_time": "2026-11-21T10:00:00 02:00"}, "start_time"),
        ({"project_key": "x", "start_time": "0001-01-01T00:00:00+14:00"}, "start_time"),
        ({"project_key": "x", "end_time": "9999-12-31T23:59:59-14:00"}, "end_time"),
        ({"project_key": "x", "end_time": "1e30"}, "end_time"),
        ({"project_key": "x", "profiled": "maybe"}, "profiled"),
        ({"project_key": "x", "sort": "name"}, "sort"),
        ({"project_key": "x", "$where": "1"}, "$where"),
        ({"project_key": "x", "min_durtion": "1"}, "min_durtion"),
    ],
)
def test_a_bad_parameter_is_named(api: Any, parameters: dict[str, str], field: str) -> None:
    response = api.get(RECORDS, params=parameters)
    assert (response.status_code, response.json()["code"]) == (422, 1000)
    assert [error["field"] for error in response.json()["data"]["errors"]] == [field]
    assert "is not valid" not in response.json()["msg"], "say what would be valid"


def test_many_bad_parameters_make_a_short_answer(api: Any) -> None:
    parameters = {f"unknown_{number}" + "x" * 500: "1" for number in range(40)}
    response = api.get(RECORDS, params={"project_key": "x", **parameters})
    assert response.status_code == 422
    assert len(response.content) < 5_000


def test_a_time_range_backwards_is_refused(api: Any) -> None:
    parameters = {
        "project_key": "x",
        "start_time": "2026-11-22T00:00:00Z",
        "end_time": "2026-11-21T00:00:00Z",
    }
    response = api.get(RECORDS, params=parameters)
    assert (response.status_code, response.json()["code"]) == (422, 1000)
    assert "start_time" in response.json()["msg"]


@pytest.mark.parametrize("path", ["", "/" + "0" * 48])
@pytest.mark.parametrize("key", ["nobody", "\0", "{'$ne': null}"])
def test_an_unknown_project_key_has_its_own_code(api: Any, path: str, key: str) -> None:
    response = api.get(RECORDS + path, params={"project_key": key})
    assert (response.status_code, response.json()["code"]) == (404, 2001)


@pytest.mark.parametrize(
    "record_id", ["0" * 48, "f" * 47, "g" * 48, "%00", "x" * 3_000, "%20" + "0" * 47, "Ä" * 48]
)
def test_an_unknown_record_is_not_found(api: Any, record_id: str) -> None:
    project = api.project()
    response = api.get(f"{RECORDS}/{record_id}", params={"project_key": project.id})
    assert (response.status_code, response.json()["code"]) == (404, 1001)
    assert "shop" in response.json()["msg"]


def test_a_record_carries_its_call_tree(api: Any) -> None:
    # Given a profiled request
    project = api.project()
    record = api.store_record(project, tree=small_tree())

    # When it is asked for
    data = api.get(f"{RECORDS}/{record.id}", params={"project_key": project.project_key}).json()["data"]

    # Then its tree is nested, and what is known of the profile stands beside it
    assert (data["id"], data["project_key"]) == (record.id, project.id)
    assert (data["trace_id"], data["span_id"]) == (record.trace_id.hex(), record.span_id.hex())
    (root,) = data["function_calls"]
    assert (root["function"], root["duration"], root["self_duration"]) == ("[request]", 1.0, 0.05)
    (view,) = root["children"]
    assert [call["function"] for call in view["children"]] == ["load_orders"]
    assert data["profile"] == {
        "sample_count": 100,
        "node_count": 3,
        "interval": 0.01,
        "duration": 1.0,
        "cpu_time": 0.25,
        "reason": "slow",
        "truncated": False,
        "interrupted": False,
    }
    assert data["hot_functions"][0]["function"] == "load_orders"


def test_a_record_carries_the_queries_of_its_request(api: Any) -> None:
    # Given a request with three queries that differ in their values only
    project = api.project()
    record = api.store_record(project)
    statement = {"key": "db.statement", "value": {"string_value": "SELECT * FROM orders WHERE id = 7"}}
    attributes = [{"key": "db.system", "value": {"string_value": "sqlite"}}, statement]
    start = record.start_time_unix_nano
    spans = [
        Span(
            trace_id=record.trace_id,
            span_id=bytes([number]) * 8,
            parent_span_id=record.span_id,
            name="SELECT",
            kind=Span.SPAN_KIND_CLIENT,
            start_time_unix_nano=start + number,
            end_time_unix_nano=start + number + 20_000_000,
            attributes=[KeyValue(**attribute) for attribute in attributes],
        )
        for number in (11, 12, 13)
    ]
    children = IncomingChildSpans(
        project_id=project.id,
        trace_id=record.trace_id,
        span_ids=[span.span_id for span in spans],
        timestamp=record.timestamp,
        otlp=ResourceSpans(scope_spans=[ScopeSpans(spans=spans)]).SerializeToString(),
    )
    api.run(api.store.write, IncomingBatch(child_spans=[children]))

    # When it is asked for
    data = api.get(f"{RECORDS}/{record.id}", params={"project_key": project.id}).json()["data"]

    # Then they are one query, three times
    (query,) = data["database_queries"]
    assert (query["query"], query["query_type"], query["count"]) == (
        "SELECT * FROM orders WHERE id = ?",
        "SELECT",
        3,
    )
    assert query["duration"] == pytest.approx(0.06)
    assert data["performance_metrics"]["database_metrics"]["query_count"] == 3


def test_a_record_without_profile_has_no_calls(api: Any) -> None:
    project = api.project()
    record = api.store_record(project)
    for form in ("nested", "flat"):
        data = api.get(f"{RECORDS}/{record.id}", params={"project_key": project.id, "format": form}).json()[
            "data"
        ]
        assert (data["function_calls"], data["profile"], data["hot_functions"]) == ([], None, [])


def test_a_deep_tree_is_cut_and_can_be_continued_and_read_flat(api: Any) -> None:
    # Given a stored tree of depth 2,000
    project = api.project()
    record = api.store_record(project, tree=chain(2_000))
    parameters = {"project_key": project.id}

    # When it is read nested, to the end, by continuing where it was cut
    starts, node = [0], 0
    while True:
        response = api.get(f"{RECORDS}/{record.id}", params={**parameters, "node": node})
        (call,) = response.json()["data"]["function_calls"]
        while call["children"]:
            (call,) = call["children"]
        if not call["children_omitted"]:
            break
        node = call["call_id"]
        starts.append(node)

    # Then every answer went 59 levels down, and the last one ends at the leaf
    assert starts == list(range(0, 2_000, 59))[: len(starts)]
    assert call["call_id"] == 2_000
    flat = api.get(f"{RECORDS}/{record.id}", params={**parameters, "format": "flat"}).json()["data"]
    assert len(flat["function_calls"]["calls"]["depth"]) == 2_001


def test_a_large_tree_is_cut_to_what_a_client_can_hold(api: Any) -> None:
    # Given a root with 50,000 children
    project = api.project()
    count = 50_000
    tree = CallTree(
        frames=[ROOT, VIEW],
        parent=[-1] + [0] * count,
        frame=[0] + [1] * count,
        self_us=[0] + [1] * count,
        samples=[0] + [1] * count,
    )
    record = api.store_record(project, tree=tree)

    # When it is asked for
    response = api.get(f"{RECORDS}/{record.id}", params={"project_key": project.id})

    # Then the answer is small and says how many calls it left out
    (root,) = response.json()["data"]["function_calls"]
    assert len(root["children"]) + root["children_omitted"] == count
    assert len(response.content) < 3_000_000


@pytest.mark.parametrize("node", [3, 2**31 - 1])
def test_a_node_beyond_the_tree_is_not_found(api: Any, node: int) -> None:
    project = api.project()
    record = api.store_record(project, tree=small_tree())
    response = api.get(f"{RECORDS}/{record.id}", params={"project_key": project.id, "node": node})
    assert (response.status_code, response.json()["code"]) == (404, 1001)
    assert "below 3" in response.json()["msg"]


def test_names_that_no_encoding_holds_are_answered(api: Any) -> None:
    # Given functions named with a lone surrogate, a NUL and markup
    project = api.project()
    tree = CallTree(
        frames=[ROOT, Frame("a\udc80\0<script>", "b\n.py", 1, True)],
        parent=[-1, 0],
        frame=[0, 1],
        self_us=[0, 1],
        samples=[0, 1],
    )
    record = api.store_record(project, tree=tree)

    # When the record is read
    response = api.get(f"{RECORDS}/{record.id}", params={"project_key": project.id})

    # Then it is strict UTF-8 JSON, and nothing a browser would run
    (root,) = json.loads(response.content.decode("utf-8"))["data"]["function_calls"]
    assert root["children"][0]["function"] == "a\\udc80\\x00<script>"
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
