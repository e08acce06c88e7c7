"""Plain JSON to batches: what senders without OpenTelemetry send, and what strangers send."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analysis_api.call_shapes import nested_calls
from otel_pyinstrument.call_tree import ROOT, CallTree, decode
from profile_store.contracts import Refusal, WriteResult
from profile_store.model import RecordDetail
from profile_store.plain_json import BadBody, Destination, Translated, read, settle, translate
from profile_store.plain_json.body import (
    MAX_LISTED,
    MAX_NESTED_CALLS,
    MAX_PARTS,
    MAX_RECORDS,
    MAX_SEPARATORS,
)
from profile_store.request_facts import request_facts

at_any_speed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PROJECT = Destination("6b017725f553b3b44d161362")

FIRST_FORM = {
    "project_key": "opk_shop",
    "request_id": "r-17",
    "endpoint": "GET /api/orders/{id}",
    "method": "GET",
    "status_code": 200,
    "duration": 0.5,
    "timestamp": "2026-11-21T11:00:00.250Z",
    "function_calls": [
        {
            "function": "view",
            "file": "shop/views.py",
            "line": 12,
            "duration": 0.4,
            "children": [{"function": "query", "file": "shop/orders.py", "line": 41, "duration": 0.3}],
        }
    ],
    "metadata": {"version": "1.2.0", "environment": "production"},
}

SECOND_FORM = {
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "request_info": {
        "method": "post",
        "path": "/api/orders/17",
        "query_params": {"page": "2", "token": "s3cret"},
        "headers": {"User-Agent": "curl/8", "Authorization": "Bearer s3cret"},
    },
    "response_info": {"status_code": 503, "response_size": 12},
    "performance_metrics": {
        "total_duration": 1.5,
        "cpu_time": 0.25,
        "memory_usage": {"peak_memory": 84.5},
        "database_metrics": {"query_count": 3, "query_time": 0.2},
    },
    "function_calls": [
        {"call_id": "c2", "function_name": "query", "file_path": "shop/orders.py", "line_number": 41,
         "duration": 0.75, "parent_call_id": "c1", "depth": 1, "call_order": 1},
        {"call_id": "c1", "function_name": "view", "file_path": "shop/views.py", "line_number": 12,
         "duration": 1.0, "parent_call_id": None, "depth": 0, "call_order": 0},
    ],
    "version_info": {"app_version": "1.3.0", "git_commit": "abc123"},
    "environment": {"python_version": "3.11.7", "framework_version": "flask 3.1", "server_info": "gunicorn"},
}  # fmt: skip


def path_template(path: str) -> str:
    return re.sub(r"\d+", "{id}", path)


def translated(body: object, default: Destination | None = PROJECT, **options: Any) -> Translated:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return translate(
        read(raw),
        options.pop("destinations", {}),
        arrival=NOW,
        path_template=path_template,
        default=default,
        **options,
    )


def record_of(changes: dict[str, Any] | None = None, form: dict[str, Any] = SECOND_FORM) -> Any:
    """The only record of a body; a change of None removes a field."""
    body = {key: value for key, value in (form | (changes or {})).items() if value is not None}
    result = translated(body)
    assert not result.refused, [str(problem) for problem in result.refused.values()]
    [item] = result.batch.records
    return item


def refusal_of(changes: dict[str, Any], form: dict[str, Any] = SECOND_FORM) -> tuple[str, str]:
    body = {key: value for key, value in (form | changes).items() if value is not ...}
    result = translated(body)
    assert not result.batch.records
    problem = result.refused[0]
    return problem.reason, str(problem)


def shape(tree: CallTree) -> list[tuple[str, int, int]]:
    """Function, depth and self time in microseconds of every node."""
    return [
        (tree.frames[frame].function, depth, self_us)
        for frame, depth, self_us in zip(tree.frame, tree.depth(), tree.self_us, strict=True)
    ]


# --- the two forms -----------------------------------------------------------------------------------------


def test_the_first_form_becomes_a_record_with_its_call_tree() -> None:
    result = translated(FIRST_FORM, destinations={"opk_shop": PROJECT}, default=None)
    [item] = result.batch.records
    record = item.record
    assert (record.endpoint, record.method, record.status_code) == ("GET /api/orders/{id}", "GET", 200)
    assert (record.duration, record.version, record.environment) == (0.5, "1.2.0", "production")
    assert record.timestamp == datetime(2026, 11, 21, 11, 0, 0, 250_000, tzinfo=UTC)
    assert record.start_time_unix_nano == 1_795_258_800_250_000_000
    tree = decode(item.payload)
    tree.self_check()
    assert shape(tree) == [("[request]", 0, 100_000), ("view", 1, 100_000), ("query", 2, 300_000)]
    assert [hot.function for hot in record.hot_functions] == ["query", "view"]
    assert result.is_single


def test_the_second_form_becomes_the_same_kind_of_record() -> None:
    item = record_of()
    record = item.record
    assert record.trace_id.hex() == SECOND_FORM["trace_id"]
    assert (record.endpoint, record.method, record.path) == (
        "POST /api/orders/{id}",
        "POST",
        "/api/orders/17",
    )
    assert (record.status_code, record.failed, record.duration, record.version) == (503, True, 1.5, "1.3.0")
    # Without a time it has just ended.
    assert record.timestamp == NOW - timedelta(seconds=1.5)
    assert shape(decode(item.payload)) == [
        ("[request]", 0, 500_000),
        ("view", 1, 250_000),
        ("query", 2, 750_000),
    ]


def test_what_else_was_told_is_found_under_the_names_of_the_api() -> None:
    record = record_of({"request_id": "r-1", "server_info": {"hostname": "web-1", "pid": 7}}).record
    facts = request_facts(RecordDetail(record=record, call_tree=None, child_spans=()))
    assert facts.request_info.query_params == {"page": ["2"], "token": ["***"]}
    assert facts.request_info.headers["authorization"] == "***"
    assert facts.request_info.headers["x-request-id"] == "r-1"
    assert facts.request_info.user_agent == "curl/8"
    assert facts.response_info.response_size == 12
    assert facts.performance_metrics.memory_usage.peak_memory == 84.5
    assert facts.performance_metrics.cpu_time == 0.25
    assert facts.performance_metrics.database_metrics.query_count == 3
    assert (facts.runtime.python_version, facts.runtime.framework_version) == ("3.11.7", "flask 3.1")
    assert (facts.server_info.hostname, facts.server_info.pid) == ("web-1", 7)
    assert facts.version_info.git_commit == "abc123"


def test_a_secret_is_not_in_the_record() -> None:
    assert "s3cret" not in repr(record_of())


def test_a_record_without_calls_counts_as_a_request_without_a_profile() -> None:
    item = record_of({"function_calls": None})
    assert (item.payload, item.record.profile, item.record.hot_functions) == (None, None, ())


@pytest.mark.parametrize(
    ("fields", "endpoint", "path"),
    [
        ({"endpoint": "GET /a", "method": "GET"}, "GET /a", "/a"),
        ({"endpoint": "/a", "method": "get"}, "GET /a", "/a"),
        ({"endpoint": "GET /a"}, "GET /a", "/a"),
        ({"endpoint": "  GET   /a  "}, "GET /a", "/a"),
        ({"endpoint": "nightly import"}, "nightly import", ""),
        ({"endpoint": "GET /a/{id}", "path": "/a/17"}, "GET /a/{id}", "/a/17"),
        ({"request_info": {"method": "GET", "path": "/a/17?x=1"}}, "GET /a/{id}", "/a/17"),
        ({"request_info": {"path": "/a"}}, "/a", "/a"),
        ({"endpoint": "get /a"}, "GET /a", "/a"),
        ({"endpoint": "M-SEARCH /a"}, "M-SEARCH /a", "/a"),
    ],
    ids=str,
)
def test_the_endpoint_begins_with_the_method(fields: dict[str, Any], endpoint: str, path: str) -> None:
    record = record_of(fields, {"duration": 1}).record
    assert (record.endpoint, record.path) == (endpoint, path)


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "/a", "method": "BREW"},
        {"endpoint": "BREW /a", "method": "brew"},
        {"endpoint": "BREW /a"},
        {"request_info": {"path": "/a", "method": "BREW"}},
        {"endpoint": "/a", "method": "_OTHER"},
    ],
    ids=str,
)
def test_a_method_that_http_does_not_know_counts_with_all_others(fields: dict[str, Any]) -> None:
    record = record_of(fields, {"duration": 1}).record
    assert (record.endpoint, record.method, record.path) == ("_OTHER /a", "_OTHER", "/a")


@pytest.mark.parametrize(
    ("fields", "origin"),
    [
        ({"endpoint": "GET /a/{id}"}, "declared"),
        ({"endpoint": "GET /a/{id}", "path": "/a/17", "status_code": 404}, "declared"),
        ({"request_info": {"method": "GET", "path": "/a/17"}}, "path"),
        ({"path": "/a/17", "status_code": 200}, "path"),
        ({"path": "/a/17", "response_info": {"status_code": 503}}, "path"),
        ({"path": "/wp-login.php", "status_code": 404}, "unmatched"),
        ({"path": "/a/17", "response_info": {"status_code": 400}}, "unmatched"),
    ],
    ids=str,
)
def test_a_name_that_was_made_from_a_path_is_no_declared_one(fields: dict[str, Any], origin: str) -> None:
    assert record_of(fields, {"duration": 1}).endpoint_origin == origin


# --- ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [
        {"request_id": "r-17"},
        {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"},
        {"trace_id": "not hexadecimal"},
        {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7"},
    ],
    ids=str,
)
def test_a_repetition_has_the_same_id(ids: dict[str, str]) -> None:
    form = {"endpoint": "GET /a", "duration": 1, **ids}
    assert record_of({}, form).record.id == record_of({}, form).record.id
    # And the same id in another project is another record.
    [other] = translated(form, Destination("6b017725f553b3b44d161363")).batch.records
    assert "span_id" in ids or other.record.id != record_of({}, form).record.id


def test_requests_of_one_trace_are_told_apart_by_their_request_ids() -> None:
    first, second = (record_of({"request_id": name}).record for name in ("r-1", "r-2"))
    assert first.trace_id == second.trace_id == bytes.fromhex(SECOND_FORM["trace_id"])
    assert first.span_id != second.span_id


def test_records_without_ids_get_ids_of_their_own() -> None:
    bodies = [{"endpoint": "GET /a", "duration": 1}] * 5
    ids = {item.record.id for item in translated(bodies).batch.records}
    assert len(ids) == 5
    assert {len(record_id) for record_id in ids} == {48}


@pytest.mark.parametrize("span_id", ["0" * 16, "xyz", "00f067aa0ba902b7ff"])
def test_a_span_id_that_is_none_is_refused(span_id: str) -> None:
    reason, message = refusal_of({"span_id": span_id})
    assert reason == "record_format"
    assert "span_id" in message


# --- call trees --------------------------------------------------------------------------------------------


def call(function: str, duration: float, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"function": function, "duration": duration, "children": list(children), **more}


def tree_of(*calls: dict[str, Any], duration: float = 1.0) -> CallTree:
    tree = decode(record_of({"function_calls": list(calls)}, {"endpoint": "x", "duration": duration}).payload)
    tree.self_check()
    return tree


def test_calls_that_ran_side_by_side_leave_no_negative_time() -> None:
    # Given calls that took longer together than the call above them, and that one than the request
    tree = tree_of(call("gather", 0.5, call("a", 0.4), call("b", 0.4)), duration=0.3)
    assert shape(tree) == [("[request]", 0, 0), ("gather", 1, 0), ("a", 2, 400_000), ("b", 2, 400_000)]


def test_calls_of_one_function_at_one_place_become_one_node() -> None:
    tree = tree_of(call("view", 0.6, call("q", 0.1), call("q", 0.2)), call("view", 0.1), duration=1)
    assert shape(tree) == [("[request]", 0, 300_000), ("view", 1, 400_000), ("q", 2, 300_000)]


def test_the_applications_own_code_is_told_from_libraries() -> None:
    files = {
        "shop/a.py": True,
        "/usr/lib/python3.11/json/x.py": False,
        "v/site-packages/y.py": False,
        "": False,
    }
    tree = tree_of(*(call(f"f{place}", 0.1, file=file) for place, file in enumerate(files)))
    assert [frame.own_code for frame in tree.frames[1:]] == list(files.values())
    assert tree_of(call("f", 0.1, own_code=True)).frames[1].own_code


def test_calls_side_by_side_may_be_as_deep_as_a_program() -> None:
    depth = 1_500
    calls = [
        {"call_id": place, "parent_call_id": place - 1 if place else None, "function": "f", "duration": 1}
        for place in range(depth)
    ]
    tree = tree_of(*calls)
    assert (max(tree.depth()), tree.duration_us) == (depth, 1_000_000)


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([{"call_id": 1, "parent_call_id": 2, "function": "f", "duration": 1}], "parent_call_id"),
        (
            [
                {"call_id": 1, "parent_call_id": 2, "function": "f", "duration": 1},
                {"call_id": 2, "parent_call_id": 1, "function": "g", "duration": 1},
            ],
            "circle",
        ),
        ([{"call_id": 1, "parent_call_id": 1, "function": "f", "duration": 1}], "circle"),
        (
            [
                {"call_id": 1, "function": "f", "duration": 1},
                {"call_id": 1, "parent_call_id": 1, "function": "g", "duration": 1},
            ],
            "every id once",
        ),
        ([{"call_id": [], "parent_call_id": {}, "function": "f", "duration": 1}], "call_id"),
        (["f"], "function_calls[0]"),
        ([{"duration": 1}], "function_calls[0].function"),
        ([{"function": "f"}], "function_calls[0].duration"),
        ([call("f", 1, call("g", -1))], "function_calls[0].children[0].duration is -1"),
        ([call("f", 1, line=-3)], "line is -3"),
        ([call("f", 1, line=1.5)], "line is 1.5"),
        ([call("f\x00", 1)], "NUL"),
        ([call("f", 8_640_000)] * 2_000, "together"),
        ([call("f", 0, calls_count=10**9)] * 10_000, "calls_count"),
        ([call("f", 1e308)], "duration is 1e+308"),
        ([call("f", 1, calls_count=1e308)], "calls_count is 1e+308"),
        ([call("f", 1, line=1e308)], "line is 1e+308"),
        ({"function": "f"}, "function_calls is an object"),
    ],
    ids=str,
)
def test_calls_that_are_no_tree_are_refused_by_name(calls: Any, words: str) -> None:
    reason, message = refusal_of({"function_calls": calls})
    assert reason == "record_format"
    assert words in message
    assert len(message) < 400


@pytest.mark.parametrize("levels", [MAX_NESTED_CALLS + 1, 10_000])
def test_calls_that_are_nested_too_deeply_are_refused_and_take_no_other_record(levels: int) -> None:
    # Given three records, the middle one with calls in calls in calls
    good = json.dumps({"endpoint": "GET /ok", "duration": 1})
    deep = '{"endpoint": "x", "duration": 1, "function_calls": '
    deep += '[{"function": "f", "duration": 1, "children": ' * levels + "[]" + "}]" * levels + "}"
    for body in (f"[{good}, {deep}, {good}]", f'{{"note": ["a:]"], "records": [{good},{deep} ,{good}]}}'):
        # When they are read
        result = translated(body.encode())
        # Then only that one is refused, with the remedy
        assert result.places == [0, 2]
        assert result.refused[1].reason == "call_stack_too_deep"
        assert "parent_call_id" in str(result.refused[1])
    alone = translated(deep.encode())
    assert (alone.refused[0].reason, alone.is_single) == ("call_stack_too_deep", True)


awkward_texts = st.text(st.sampled_from('[]{}:,"\\ x\n'), max_size=8)
awkward_values = st.recursive(
    awkward_texts | st.integers(-5, 5) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(awkward_texts, inner, max_size=3),
    max_leaves=6,
)


@settings(at_any_speed, max_examples=30)
@given(
    st.lists(st.dictionaries(awkward_texts, awkward_values, max_size=3), max_size=4),
    st.dictionaries(awkward_texts, awkward_values, max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_a_body_with_a_record_too_deep_is_cut_at_its_records(items, others, indent, is_list) -> None:
    # Given any records, written in any way, and one at the end that nobody can read
    deep = "[" * 20_000 + "]" * 20_000
    text = json.dumps([*items, {"x": 0}], indent=indent)
    if not is_list:
        text = json.dumps({**others, "records": [*items, {"x": 0}]}, indent=indent)
    body = re.sub(r'"x":\s*0(?=\s*}\s*]\s*}?$)', lambda _: f'"x": {deep}', text)
    # Then the others are what they were
    records = read(body.encode()).records
    assert list(records[:-1]) == items
    assert records[-1].reason == "call_stack_too_deep"


def test_the_deepest_nesting_that_is_allowed_is_read_far_down_the_stack() -> None:
    nested = call("f", 1)
    for _ in range(MAX_NESTED_CALLS - 1):
        nested = call("f", 1, nested)

    def further_down(levels: int) -> CallTree:
        return tree_of(nested) if not levels else further_down(levels - 1)

    assert max(further_down(sys.getrecursionlimit() // 5).depth()) == MAX_NESTED_CALLS


@st.composite
def call_forests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Calls whose children fit into them, in whole microseconds."""

    def grow(budget_us: int, depth: int) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        for _ in range(draw(st.integers(0, 3 if depth < 5 else 0))):
            duration_us = draw(st.integers(0, budget_us))
            budget_us -= duration_us
            name = draw(st.sampled_from("abc"))
            calls.append(
                {
                    "function": name,
                    "file": f"{name}.py",
                    "line": 1,
                    "duration": duration_us / 1e6,
                    "children": grow(duration_us, depth + 1),
                }
            )
        return calls

    return grow(10**6, 0)


def paths_of(calls: list[dict[str, Any]], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Inclusive microseconds by path of functions, computed the obvious way."""
    totals: dict[tuple[str, ...], int] = {}
    for sent in calls:
        path = (*above, sent["function"])
        totals[path] = totals.get(path, 0) + round(sent["duration"] * 1e6)
        for below, value in paths_of(sent["children"], path).items():
            totals[below] = totals.get(below, 0) + value
    return totals


def paths_of_tree(tree: CallTree) -> dict[tuple[str, ...], int]:
    paths: list[tuple[str, ...]] = []
    for node, parent in enumerate(tree.parent):
        paths.append((*paths[parent], tree.frames[tree.frame[node]].function) if node else ())
    return dict(zip(paths[1:], tree.total_us()[1:], strict=True))


@at_any_speed
@given(call_forests())
def test_nested_calls_keep_their_times(calls: list[dict[str, Any]]) -> None:
    if calls:
        tree = tree_of(*calls, duration=1.0)
        assert tree.duration_us == 1_000_000
        assert paths_of_tree(tree) == paths_of(calls)


@at_any_speed
@given(call_forests(), st.randoms(use_true_random=False))
def test_calls_side_by_side_in_any_order_are_the_same_tree(calls: list[dict[str, Any]], order: Any) -> None:
    # Given the same calls once nested and once side by side, shuffled
    flat: list[dict[str, Any]] = []

    def flatten(siblings: list[dict[str, Any]], parent: int | None) -> None:
        for sent in siblings:
            call_id = len(flat)
            flat.append({**sent, "children": [], "call_id": call_id, "parent_call_id": parent})
            flatten(sent["children"], call_id)

    flatten(calls, None)
    if calls:
        nested = tree_of(*calls)
        order.shuffle(flat)
        # Then they mean the same
        assert paths_of_tree(tree_of(*flat)) == paths_of_tree(nested)


@at_any_speed
@given(call_forests())
def test_what_the_api_shows_can_be_sent_again(calls: list[dict[str, Any]]) -> None:
    if calls:
        tree = tree_of(*calls)
        again = tree_of(*nested_calls(tree, 0), duration=1.0)
        assert again == tree
        assert again.frames[again.frame[0]] == ROOT


# --- hostile and mistaken values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"duration": "fast"}, "record_format", "duration is 'fast': send seconds"),
        ({"duration": -1}, "record_format", "duration is -1"),
        ({"duration": True}, "record_format", "duration is true"),
        ({"duration": 1e300}, "record_format", "duration is 1e+300"),
        ({"duration": 10**39}, "record_format", "duration is 1000"),
        ({"duration": float("nan")}, "record_format", "duration is 'NaN'"),
        ({"duration": float("inf")}, "record_format", "duration is 'Infinity'"),
        ({"performance_metrics": {"total_duration": []}}, "record_format", "total_duration is an array"),
        ({"performance_metrics": ...}, "record_format", "duration is missing"),
        ({"timestamp": "yesterday"}, "bad_timestamp", "timestamp is 'yesterday': send a time with zone"),
        ({"timestamp": "2026-11-21T10:00:00"}, "bad_timestamp", "zone"),
        ({"timestamp": "2026-13-21T10:00:00Z"}, "bad_timestamp", "timestamp"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "bad_timestamp", "timestamp"),
        ({"timestamp": "9999-12-31T23:59:59-14:00"}, "bad_timestamp", "timestamp"),
        ({"timestamp": "2262-01-01T00:00:00Z"}, "bad_timestamp", "send a time after 1970"),
        ({"timestamp": 1_795_258_800}, "bad_timestamp", "timestamp is 1795258800"),
        ({"timestamp": "2026-11-21T12:20:00Z"}, "bad_timestamp", "future"),
        ({"timestamp": "2026-10-01T12:00:00Z"}, "expired", "30 days"),
        ({"endpoint": "a\x00b"}, "record_format", "endpoint is 'a\\x00b': remove NUL"),
        ({"endpoint": "x" * 5_000}, "record_format", "send at most 200 characters, it has 5000"),
        ({"endpoint": {}}, "record_format", "endpoint is an object"),
        ({"request_info": {"path": "/a", "headers": {"a": {}}}}, "record_format", "request_info.headers.a"),
        (
            {"request_info": {"path": "/a", "headers": ["a"]}},
            "record_format",
            "request_info.headers is an array",
        ),
        ({"request_info": {"path": "/a", "query_params": {"a\x00": 1}}}, "record_format", "NUL"),
        (
            {"request_info": {"path": "/", "headers": dict.fromkeys(map(str, range(200)))}},
            "too_large",
            "200 members",
        ),
        ({"request_info": {"path": "/", "headers": {"a": ["x" * 4_096] * 17}}}, "too_large", "65536"),
        ({"request_info": "GET /a"}, "record_format", "request_info is 'GET /a'"),
        ({"request_info": {}}, "record_format", "endpoint is missing"),
        ({"status_code": 99}, "record_format", "status_code is 99"),
        ({"status_code": 2**70}, "record_format", "status_code is"),
        ({"status_code": "200"}, "record_format", "status_code is '200'"),
        ({"trace_id": 17}, "record_format", "trace_id is 17"),
        ({"version_info": {"app_version": ["1"]}}, "record_format", "version_info.app_version is an array"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_with_its_value_and_the_remedy(
    changes: dict[str, Any], reason: str, words: str
) -> None:
    found, message = refusal_of(changes)
    assert found == reason
    assert words in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "field",
    [
        "duration",
        "status_code",
        "request_info.request_size",
        "response_info.response_size",
        "response_info.status_code",
        "server_info.pid",
        "performance_metrics.total_duration",
        "performance_metrics.cpu_time",
        "performance_metrics.memory_usage.peak_memory",
        "performance_metrics.memory_usage.memory_delta",
        "performance_metrics.database_metrics.query_count",
        "performance_metrics.database_metrics.query_time",
        "performance_metrics.cache_metrics.cache_hits",
        "performance_metrics.cache_metrics.cache_misses",
        "performance_metrics.cache_metrics.cache_time",
    ],
)
def test_a_number_that_nothing_can_measure_is_refused(field: str) -> None:
    # Given a good record in which one number is finite and absurd
    record = json.loads(json.dumps(SECOND_FORM))
    *above, last = field.split(".")
    place = record
    for name in above:
        place = place.setdefault(name, {})
    place[last] = 1e308

    result = translated(record)

    assert result.refused[0].reason == "record_format"
    assert str(result.refused[0]).startswith(f"{field} is 1e+308: send ")


def test_a_lone_surrogate_is_refused_alone() -> None:
    body = b'[{"endpoint": "a\\ud800", "duration": 1}, {"endpoint": "GET /ok", "duration": 1}]'
    result = translated(body)
    assert result.places == [1]
    assert "surrogates" in str(result.refused[0])
    str(result.refused[0]).encode()


def test_an_absurd_number_is_refused_alone() -> None:
    body = b'[{"endpoint": "a", "duration": ' + b"9" * 100_000 + b'}, {"endpoint": "GET /ok", "duration": 1}]'
    result = translated(body)
    assert result.places == [1]
    assert "duration is '999" in str(result.refused[0])
    assert len(str(result.refused[0])) < 200


def test_a_project_key_that_is_unknown_or_missing_is_refused_and_not_repeated() -> None:
    result = translated([FIRST_FORM, SECOND_FORM], destinations={}, default=None)
    assert [problem.reason for problem in result.refused.values()] == ["unknown_project_key"] * 2
    assert "opk_shop" not in str(result.refused[0])
    assert "missing" in str(result.refused[1])
    for key in ("opk_secret\0", ["opk_secret"], "opk_secret" * 1_000):
        reason, message = refusal_of({"project_key": key})
        assert (reason, "opk_" in message) == ("unknown_project_key", False)


def test_the_keys_of_the_records_are_known_before_they_are_translated() -> None:
    sent = read(json.dumps([FIRST_FORM, SECOND_FORM, {"project_key": 7}, 7]).encode())
    assert sent.project_keys == {"opk_shop"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"7", "not_json"),
        (b'"text"', "not_json"),
        (b"null", "not_json"),
        (b'{"endpoint": 1} trailing', "not_json"),
        (b"[" * 10_000, "not_json"),
        (b"[" * (MAX_PARTS + 1), "too_large"),
        (b'{"unknown":[%b1]}' % (b"1," * MAX_SEPARATORS), "too_large"),
        (b'{%b"a":1}' % (b'"a":1,' * MAX_SEPARATORS), "too_large"),
        (b"[%b1]" % (b"1," * MAX_LISTED), "too_large"),
        (b'{"records":[%b1]}' % (b"1," * MAX_LISTED), "too_large"),
        (b"[%b%b1]" % (b"[" * 5_000 + b"]" * 5_000 + b",", b"1," * MAX_LISTED), "too_large"),
        (b" " * (17 * 1024 * 1024), "too_large"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_body_that_is_no_json_is_refused_as_a_whole(body: bytes, reason: str) -> None:
    with pytest.raises(BadBody) as caught:
        read(body)
    assert caught.value.reason == reason


def test_records_beyond_the_limit_are_refused_and_the_others_kept() -> None:
    result = translated([{"endpoint": "GET /a", "duration": 1}] * (MAX_RECORDS + 2))
    assert len(result.batch.records) == MAX_RECORDS
    assert [problem.reason for problem in result.refused.values()] == ["too_large", "too_large"]


def test_a_text_without_an_end_costs_no_more_than_its_length() -> None:
    # Given a body that is nested too deeply and goes on with quotes that look like texts within a text
    body = b"[" * 5_000 + b'"' + b'\\"' * 1_000_000
    # Then it is refused in one pass (in the square of its length it would take hours)
    with pytest.raises(BadBody):
        read(body)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({*FIRST_FORM, *SECOND_FORM, "span_id", "server_info", "runtime", "path", "version"})


@at_any_speed
@given(
    st.lists(
        st.one_of(
            json_values,
            st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4).map(lambda x: FIRST_FORM | x),
            st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4).map(lambda x: SECOND_FORM | x),
        ),
        max_size=4,
    )
)
@example([{"function_calls": [None]}])
def test_whatever_is_sent_good_records_are_kept_and_bad_ones_are_explained(items: list[Any]) -> None:
    # Given anything, and a good record at its end
    good = {"endpoint": "GET /good", "duration": 1}
    result = translated([*items, good], destinations={"opk_shop": PROJECT})
    # Then every record is either stored or refused in words that can be sent
    assert sorted([*result.places, *result.refused]) == list(range(len(items) + 1))
    assert result.places[-1] == len(items)
    for problem in result.refused.values():
        assert 0 < len(str(problem).encode()) < 1_000
    for item in result.batch.records:
        if item.payload is not None:
            decode(item.payload).self_check()


# --- the answer --------------------------------------------------------------------------------------------


def test_what_the_store_refuses_is_told_by_its_place() -> None:
    # Given three records, one bad, and a store that refuses the last
    result = translated([SECOND_FORM, 7, {**SECOND_FORM, "request_id": "r"}])
    lost = result.batch.records[1].record.span_id
    refusal = Refusal(span_ids=[lost], reason="record_id_taken", message="record: taken")
    # When the outcome is settled
    outcome = settle(result, WriteResult(new_records=1, new_profiles=1, refusals=[refusal]))
    # Then each has its place
    assert [(item.index, item.record_id) for item in outcome.accepted] == [
        (0, result.batch.records[0].record.id)
    ]
    assert [(item.index, item.message.partition(":")[0]) for item in outcome.rejected] == [
        (1, "record is 7"),
        (2, "record"),
    ]
