from __future__ import annotations

import os
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from profile_store.model import IncomingBatch, IncomingRecord, RecordQuery

pytestmark = pytest.mark.anyio

UNKNOWN_PROJECT = "0" * 24
HOSTILE_REFERENCES = [
    "",
    "x",
    "\0",
    "\ud800",
    "0" * 24,
    "0" * 48,
    "zz" * 24,
    "é" * 48,
    "{$ne: 1}",
    " " * 48,
    "9" * 100_000,
]


async def write(store, *records, **batch) -> None:
    items = [
        record if isinstance(record, IncomingRecord) else IncomingRecord(record=record) for record in records
    ]
    result = await store.write(IncomingBatch(records=items, **batch))
    assert list(result.refusals) == []


async def listed(store, project_id: str, **filters) -> list[str]:
    page = await store.records(RecordQuery(project_id=project_id, **filters))
    assert (page.total, page.total_is_exact) == (len(page.items), True)
    return [record.id for record in page.items]


async def test_without_projects_the_page_is_empty(store):
    page = await store.projects()
    assert (list(page.items), page.total, page.page) == ([], 0, 1)


async def test_projects_are_listed_by_name_page_by_page(store):
    for name in ("cart", "admin", "shop"):
        await store.create_project(name)
    first, second, beyond = [await store.projects(page=page, page_size=2) for page in (1, 2, 3)]
    assert [project.name for project in first.items] == ["admin", "cart"]
    assert [project.name for project in second.items] == ["shop"]
    assert (list(beyond.items), beyond.total) == ([], 3)


async def test_projects_are_filtered_by_status(store, database):
    for name in ("cart", "shop"):
        await store.create_project(name)
    database.projects.update_one({"name": "cart"}, {"$set": {"status": "archived"}})
    for status, names in (("active", ["shop"]), ("archived", ["cart"]), ("\ud800", [])):
        assert [project.name for project in (await store.projects(status=status)).items] == names


@pytest.mark.parametrize("reference", HOSTILE_REFERENCES, ids=range(len(HOSTILE_REFERENCES)))
async def test_an_unknown_reference_is_no_error_whatever_the_text(store, project_id, make, reference):
    record = make.record(project_id)
    await write(store, record)
    assert await store.project(reference) is None
    assert await store.record(project_id, reference) is None
    assert await store.record(reference, record.id) is None
    assert await store.call_tree(reference, record.id) is None
    assert (await store.project_statistics(reference)).total_requests == 0
    assert await store.endpoints(reference) == []
    assert await listed(store, reference) == []


async def test_records_are_listed_newest_first_without_their_attributes(store, project_id, make):
    # Given three records, each a minute older than the one before
    now = make.record(project_id).timestamp
    records = [
        make.record(
            project_id,
            timestamp=now - timedelta(minutes=n),
            attributes={"a": "b"},
            resource={"c": "d"},
            facts="{}",
        )
        for n in range(3)
    ]
    await write(store, *records[::-1])
    # When they are listed
    page = await store.records(RecordQuery(project_id=project_id))
    # Then they come newest first, as they are, without the bulky parts
    assert [record.id for record in page.items] == [record.id for record in records]
    assert replace(page.items[0], created_at=None) == replace(
        records[0], attributes={}, resource={}, hot_functions=[], facts=""
    )


@pytest.mark.parametrize("sort", ["-timestamp", "timestamp", "-duration", "duration"])
async def test_pages_of_equal_records_do_not_overlap(store, project_id, make, sort):
    # Given records with the same time and duration
    now = make.record(project_id).timestamp
    records = [make.record(project_id, timestamp=now) for _ in range(7)]
    await write(store, *records)
    # When they are read in pages of three
    pages = [
        await store.records(RecordQuery(project_id=project_id, sort=sort, page=page, page_size=3))
        for page in (1, 2, 3, 4, 10**30)
    ]
    # Then each is there once, and pages beyond the end are empty
    assert [len(page.items) for page in pages] == [3, 3, 1, 0, 0]
    assert {item.id for page in pages for item in page.items} == {record.id for record in records}
    assert {page.total for page in pages} == {7}


@pytest.mark.parametrize(("sort", "order"), [("-duration", [3, 2, 1]), ("duration", [1, 2, 3])])
async def test_records_are_sorted_by_duration(store, project_id, make, sort, order):
    await write(store, *(make.record(project_id, duration=float(n)) for n in (2, 3, 1)))
    page = await store.records(RecordQuery(project_id=project_id, sort=sort))
    assert [record.duration for record in page.items] == order


async def test_every_filter_holds_alone_and_all_hold_together(store, project_id, make):
    # Given one record that differs from the others in everything
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    wanted = make.profiled(
        make.record(
            project_id,
            endpoint="POST /pay",
            method="POST",
            status_code=502,
            failed=True,
            version="2.0",
            environment="staging",
            duration=3.0,
            timestamp=noon,
        )
    )
    others = [make.record(project_id, timestamp=noon + timedelta(hours=hours)) for hours in (-2, 2)]
    await write(store, wanted, *others)
    filters = {
        "endpoint": "POST /pay",
        "method": "POST",
        "status": "failed",
        "version": "2.0",
        "environment": "staging",
        "min_duration": 3.0,
        "start_time": noon,
        "profiled": True,
    }
    # When each filter is used alone, then only that record matches
    for name, value in filters.items():
        matches = await listed(store, project_id, **{name: value})
        assert wanted.record.id in matches, name
        assert len(matches) == (2 if name == "start_time" else 1), name
    assert await listed(store, project_id, status=502) == [wanted.record.id]
    # And the same with all of them, and never with one that is off
    assert await listed(store, project_id, **filters, end_time=noon + timedelta(seconds=1)) == [
        wanted.record.id
    ]
    assert await listed(store, project_id, **{**filters, "method": "GET"}) == []
    # And the window is closed at its start and open at its end
    assert await listed(store, project_id, start_time=noon, end_time=noon) == []
    assert len(await listed(store, project_id, status="ok")) == 2
    assert len(await listed(store, project_id, profiled=False)) == 2


@pytest.mark.parametrize(
    "filters",
    [
        {"endpoint": "\ud800"},
        {"endpoint": "\0"},
        {"version": "{$ne: null}"},
        {"status": 2**70},
        {"min_duration": float("nan")},
        {"min_duration": float("inf")},
        {"endpoint": "x" * 1_000_000},
    ],
    ids=lambda filters: next(iter(filters)),
)
async def test_a_filter_that_cannot_match_gives_an_empty_page(store, project_id, make, filters):
    await write(store, make.record(project_id))
    assert await listed(store, project_id, **filters) == []


@pytest.mark.parametrize("values", [{"page": 0}, {"page": -1}, {"page_size": 0}])
async def test_pages_count_from_one(store, project_id, values):
    with pytest.raises(ValueError, match="page"):
        await store.records(RecordQuery(project_id=project_id, **values))
    with pytest.raises(ValueError, match="page"):
        await store.projects(**values)


async def test_a_long_list_is_counted_up_to_a_limit(store, project_id, make, database):
    # Given more records than are counted, copied inside the database
    await write(store, make.record(project_id))
    [document] = database.performance_records.find()
    database.performance_records.insert_many(
        [{**document, "_id": os.urandom(24), "duration": float(n)} for n in range(10_000)]
    )
    # When they are listed
    page = await store.records(RecordQuery(project_id=project_id, page=500, sort="duration"))
    beyond = await store.records(RecordQuery(project_id=project_id, page=501, sort="duration"))
    # Then the total says that it is a lower bound, and pages behind it can be read
    assert (page.total, page.total_is_exact, len(page.items)) == (10_000, False, 20)
    assert len(beyond.items) == 1


async def test_a_list_that_takes_too_long_to_count_is_shown_all_the_same(
    store, project_id, make, monkeypatch
):
    # Given no time to count
    monkeypatch.setattr("profile_store.mongodb.reader._COUNT_SECONDS", 0.000_001)
    await write(store, *(make.record(project_id) for _ in range(3)))
    # When a full and a half page are read
    first, second = [
        await store.records(RecordQuery(project_id=project_id, page=n, page_size=2)) for n in (1, 2)
    ]
    # Then the records are there, and the total says that it is a lower bound
    assert (len(first.items), first.total, first.total_is_exact) == (2, 2, False)
    assert (len(second.items), second.total, second.total_is_exact) == (1, 3, False)


async def test_another_projects_record_is_not_found(store, project_id, make):
    record = make.profiled(make.record(project_id))
    await write(store, record)
    other = (await store.project_for_service("other")).id
    assert await store.record(other, record.record.id) is None
    assert await store.call_tree(other, record.record.id) is None


async def test_a_record_without_profile_has_no_call_tree(store, project_id, make):
    record = make.record(project_id)
    await write(store, record)
    assert (await store.record(project_id, record.id)).call_tree is None
    assert await store.call_tree(project_id, record.id) is None


async def test_a_profile_that_is_gone_or_damaged_leaves_the_record_readable(
    store, project_id, make, database
):
    gone, damaged = [make.profiled(make.record(project_id)) for _ in range(2)]
    await write(store, gone, damaged)
    database.profiles.delete_one({"_id": gone.record.trace_id + gone.record.span_id})
    database.profiles.update_one(
        {"_id": damaged.record.trace_id + damaged.record.span_id}, {"$set": {"payload": b"no zlib"}}
    )
    for item in (gone, damaged):
        detail = await store.record(project_id, item.record.id)
        assert detail.record.profile == make.profile
        assert detail.call_tree is None


async def test_a_profile_whose_record_has_not_arrived_is_not_shown(store, project_id, make, database):
    # Given the state between the two writes of a batch
    item = make.profiled(make.record(project_id))
    await write(store, item)
    database.performance_records.delete_many({})
    # Then nothing of it is visible
    assert await store.call_tree(project_id, item.record.id) is None


async def test_child_spans_come_in_start_order_each_once(store, project_id, make):
    # Given child spans that arrive in two chunks, which overlap, in no order
    record = make.record(project_id)
    spans = [make.span(record.trace_id, parent=record.span_id, start=start) for start in (30, 10, 20)]
    chunks = [make.chunk(project_id, spans[:2]), make.chunk(project_id, spans[1:])]
    await write(store, record, child_spans=chunks)
    # When the record is read
    detail = await store.record(project_id, record.id)
    # Then
    assert [span.start_time_unix_nano for span in detail.child_spans] == [10, 20, 30]
    assert detail.child_spans[0].scope == "opentelemetry.instrumentation.sqlite3"
    assert not detail.child_spans_truncated


async def test_child_spans_may_come_before_or_after_their_record(store, project_id, make):
    record = make.record(project_id)
    early = make.span(record.trace_id, parent=record.span_id, start=1)
    late = make.span(record.trace_id, parent=early.span_id, start=2)
    await write(store, child_spans=[make.chunk(project_id, [early])])
    await write(store, record)
    await write(store, child_spans=[make.chunk(project_id, [late])])
    detail = await store.record(project_id, record.id)
    assert [span.span_id for span in detail.child_spans] == [early.span_id, late.span_id]


async def test_child_spans_of_other_traces_and_projects_are_not_shown(store, project_id, make):
    record = make.record(project_id)
    other_project = (await store.project_for_service("other")).id
    same_parent = {"parent": record.span_id}
    neighbours = [record.trace_id[:-1] + bytes([(record.trace_id[-1] + step) % 256]) for step in (-1, 1)]
    chunks = [make.chunk(project_id, [make.span(trace, **same_parent)]) for trace in neighbours]
    chunks.append(make.chunk(other_project, [make.span(record.trace_id, **same_parent)]))
    await write(store, record, child_spans=chunks)
    assert (await store.record(project_id, record.id)).child_spans == []


async def test_each_record_of_a_trace_has_its_own_descendants(store, project_id, make):
    # Given a request that calls another one of the same service, each with a query
    outer = make.record(project_id)
    call = make.span(outer.trace_id, parent=outer.span_id, start=1)
    inner = make.record(project_id, trace_id=outer.trace_id, parent_span_id=call.span_id)
    query = make.span(outer.trace_id, parent=inner.span_id, start=2)
    stray = make.span(outer.trace_id, parent=os.urandom(8), start=3)
    await write(store, outer, inner, child_spans=[make.chunk(project_id, [call, query, stray])])
    # Then the query belongs to the inner one only, and the stray span to nobody
    assert [s.span_id for s in (await store.record(project_id, outer.id)).child_spans] == [call.span_id]
    assert [s.span_id for s in (await store.record(project_id, inner.id)).child_spans] == [query.span_id]


async def test_a_span_whose_parent_never_arrived_belongs_to_the_only_record(store, project_id, make):
    # Given a query below a span that was lost, and a caller of this service above the record
    caller = os.urandom(8)
    gateway = make.span(os.urandom(16), parent=caller, start=0)
    record = make.record(project_id, trace_id=gateway.trace_id, parent_span_id=gateway.span_id)
    orphan = make.span(record.trace_id, parent=os.urandom(8), start=1)
    below = make.span(record.trace_id, parent=orphan.span_id, start=2)
    await write(store, record, child_spans=[make.chunk(project_id, [gateway, orphan, below])])
    # Then the query is shown, the gateway above is not
    detail = await store.record(project_id, record.id)
    assert [span.span_id for span in detail.child_spans] == [orphan.span_id, below.span_id]


async def test_spans_that_are_each_others_parents_end_no_loop(store, project_id, make):
    a, b = os.urandom(8), os.urandom(8)
    record = make.record(project_id, parent_span_id=a)
    spans = [make.span(record.trace_id, span_id=a, parent=b), make.span(record.trace_id, span_id=b, parent=a)]
    selfish = make.span(record.trace_id, span_id=b"s" * 8, parent=b"s" * 8)
    await write(store, record, child_spans=[make.chunk(project_id, [*spans, selfish])])
    assert (await store.record(project_id, record.id)).child_spans == []


async def test_child_spans_that_an_earlier_version_compressed_with_zlib_are_read(
    store, project_id, make, database
):
    record = make.record(project_id)
    span = make.span(record.trace_id, parent=record.span_id)
    chunk = make.chunk(project_id, [span])
    await write(store, record, child_spans=[chunk])
    database.child_spans.update_one({}, {"$set": {"otlp": zlib.compress(chunk.otlp, 1)}})

    detail = await store.record(project_id, record.id)

    assert [child.span_id for child in detail.child_spans] == [span.span_id]


async def test_damaged_child_spans_leave_the_record_readable(store, project_id, make, database):
    record = make.record(project_id)
    spans = [make.span(record.trace_id, parent=record.span_id) for _ in range(2)]
    await write(store, record, child_spans=[make.chunk(project_id, [span]) for span in spans])
    database.child_spans.update_one({}, {"$set": {"otlp": b"damaged"}})
    assert len((await store.record(project_id, record.id)).child_spans) == 1


async def test_a_trace_with_too_many_child_spans_is_cut_and_says_so(store, project_id, make):
    record = make.record(project_id)
    chunks = [
        make.chunk(project_id, [make.span(record.trace_id, parent=record.span_id) for _ in range(5_001)])
        for _ in range(4)
    ]
    await write(store, record, child_spans=chunks)
    detail = await store.record(project_id, record.id)
    assert (len(detail.child_spans), detail.child_spans_truncated) == (20_000, True)


async def test_without_requests_the_statistics_know_no_average(store, project_id):
    statistics = await store.project_statistics(project_id)
    assert statistics.total_requests == 0
    assert (statistics.avg_response_time, statistics.p95_response_time, statistics.error_rate) == (
        None,
        None,
        None,
    )
    assert statistics.last_request_time is None


@pytest.mark.parametrize(("count", "p95"), [(1, 10), (19, 190), (20, 190), (21, 200), (100, 950)])
async def test_statistics_are_exact(store, project_id, make, count, p95):
    # Given requests of 10, 20, 30 ... ms, of which the first failed
    records = [make.record(project_id, duration=n / 100, failed=n == 1) for n in range(1, count + 1)]
    await write(store, *records)
    # When the numbers are asked for
    statistics = await store.project_statistics(project_id)
    # Then p95 is the smallest duration that 95 percent do not exceed
    assert statistics.total_requests == count
    assert statistics.avg_response_time == pytest.approx(10 * (count + 1) / 2)
    assert statistics.p95_response_time == pytest.approx(p95)
    assert statistics.error_rate == pytest.approx(1 / count)
    assert statistics.last_request_time == max(record.timestamp for record in records).replace(
        microsecond=123_000
    )


async def test_statistics_and_endpoints_cover_the_last_day_only(store, project_id, make):
    # Given a request now, one of two days ago and one from a clock that is far ahead
    now = make.record(project_id).timestamp
    times = {"GET /now": now, "GET /old": now - timedelta(days=2), "GET /future": now + timedelta(days=2)}
    await write(
        store, *(make.record(project_id, endpoint=name, timestamp=time) for name, time in times.items())
    )
    # Then only the first counts
    assert (await store.project_statistics(project_id)).total_requests == 1
    assert await store.endpoints(project_id) == ["GET /now"]


async def test_endpoints_are_listed_most_frequent_first_up_to_200(store, project_id, make):
    records = [make.record(project_id, endpoint=f"GET /{n:03}") for n in range(250)]
    records += [make.record(project_id, endpoint="GET /249") for _ in range(2)]
    await write(store, *records)
    endpoints = await store.endpoints(project_id)
    assert endpoints[:2] == ["GET /249", "GET /000"]
    assert len(endpoints) == 200


async def test_check_is_silent_when_the_database_answers(store):
    assert await store.check() is None
