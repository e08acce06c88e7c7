from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import bson
import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.contracts import InvalidProject, ProjectExists, StoreUnavailable
from profile_store.model import IncomingBatch, IncomingRecord, RecordQuery, SpanEvent
from profile_store.mongodb import indexes, writer

pytestmark = pytest.mark.anyio

BATCH_OF_NOTHING = IncomingBatch()


def outcome(result) -> tuple[int, int, list[str]]:
    return result.new_records, result.new_profiles, [refusal.reason for refusal in result.refusals]


async def test_what_was_written_is_read_back(store, project_id, make):
    # Given a record with values that BSON alone could not hold
    record = make.record(
        project_id,
        parent_span_id=os.urandom(8),
        attributes={
            "a\0key": 1,
            "big": 2**64 - 1,
            "surrogate": "\ud800",
            "nested": {"a.b": [b"\x00\xff", None, 1.5, {"$set": True}]},
        },
        resource={"service.name": "shop"},
        facts='{"memory":{"rss":84000000}}',
        events=[SpanEvent(name="exception", time_unix_nano=7, attributes={"exception.type": "KeyError"})],
    )
    item = make.profiled(record)
    # When it is written with its call tree
    result = await store.write(IncomingBatch(records=[item]))
    # Then the same comes back
    detail = await store.record(project_id, record.id)
    assert outcome(result) == (1, 1, [])
    assert replace(detail.record, created_at=None) == replace(item.record, hot_functions=[])
    assert detail.call_tree.duration_us == 250_000
    assert await store.call_tree(project_id, record.id) == detail.call_tree


async def test_documents_use_the_names_of_the_api(store, project_id, make, documents):
    # Given a record as the SDK sends it
    attributes = {
        "http.user_agent": "curl/8",
        "net.peer.ip": "10.0.0.7",
        "http.request.header.cookie": ["session=abc"],
        "http.response.header.content_type": ["text/html"],
    }
    record = make.record(
        project_id, attributes=attributes, resource={"host.name": "web-1", "process.pid": 2**70}
    )
    # When it is stored, although a value does not fit into the database
    await store.write(IncomingBatch(records=[make.profiled(record)]))
    # Then somebody who looks into the database finds the facts under the names of the API, and no secret
    [document] = documents("performance_records")
    assert document["trace_id"] == record.trace_id.hex()
    assert document["endpoint"] == "GET /orders/{id}"
    assert document["request_info"] == {"user_agent": "curl/8", "remote_ip": "10.0.0.7", "request_size": None}
    assert document["response_info"] == {"response_size": None, "content_type": "text/html"}
    assert document["server_info"] == {"hostname": "web-1", "pid": None}
    assert document["profile"]["sample_count"] == 25
    assert b"session=abc" not in bson.encode(document)


async def test_writing_again_in_another_grouping_is_a_success_and_changes_nothing_that_is_read(
    store, project_id, make, documents
):
    # Given three records and the child spans of one of them
    items = [make.profiled(make.record(project_id)) for _ in range(3)]
    trace = items[0].record.trace_id
    spans = [make.span(trace, parent=items[0].record.span_id) for _ in range(3)]
    await store.write(IncomingBatch(records=items, child_spans=[make.chunk(project_id, spans)]))
    before = await store.record(project_id, items[0].record.id)
    # When they come again, once all in one and once one by one
    together = await store.write(IncomingBatch(records=items, child_spans=[make.chunk(project_id, spans)]))
    for item, span in zip(items, spans, strict=True):
        alone = await store.write(IncomingBatch(records=[item], child_spans=[make.chunk(project_id, [span])]))
        assert outcome(alone) == (0, 0, [])
    # Then nobody reads anything else than before
    assert outcome(together) == (0, 0, [])
    assert await store.record(project_id, items[0].record.id) == before
    assert (await store.records(RecordQuery(project_id=project_id))).total == 3
    # And only child spans in another grouping lie there once more: a chunk of three and three of one
    assert len(documents("performance_records")) == len(documents("profiles")) == 3
    assert sorted(chunk["span_count"] for chunk in documents("child_spans")) == [1, 1, 1, 3]


async def test_the_same_record_twice_in_one_batch_is_stored_once(store, project_id, make):
    item = make.profiled(make.record(project_id))
    assert outcome(await store.write(IncomingBatch(records=[item, item]))) == (1, 1, [])


async def test_what_came_first_stays(store, project_id, make):
    record = make.record(project_id)
    await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))
    await store.write(IncomingBatch(records=[IncomingRecord(record=replace(record, status_code=500))]))
    assert (await store.record(project_id, record.id)).record.status_code == 200


async def test_an_empty_batch_does_not_touch_the_database(make):
    # Given a store whose database has gone
    with make.own_mongod() as server:
        async with open_store(StoreSettings(MONGODB_URL=server.url)) as store:
            server.stop()
            # When nothing is written, then nothing fails
            assert outcome(await store.write(BATCH_OF_NOTHING)) == (0, 0, [])


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "poison",
    [
        {"attributes": {"a": deep(90)}},
        {"attributes": {"a": deep(3_000)}},
        {"attributes": {"a": object()}},
        {"endpoint": "\ud800"},
        {"status_code": 2**63},
        {"start_time_unix_nano": 2**63},
        {"trace_id": b"short"},
        {"timestamp": datetime(2026, 1, 1)},
        {"project_id": "no id"},
        {"path": "x" * (17 * 1024 * 1024)},
    ],
    ids=lambda poison: next(iter(poison)),
)
async def test_a_record_that_cannot_be_stored_is_refused_alone(store, project_id, make, poison):
    # Given a batch in which one record is poisoned
    good = [IncomingRecord(record=make.record(project_id)) for _ in range(3)]
    bad = IncomingRecord(record=replace(make.record(project_id, start_time_unix_nano=1), **poison))
    # When it is written
    result = await store.write(IncomingBatch(records=[*good[:2], bad, good[2]]))
    # Then only that one is refused, with its span and a reason, and nothing of its content
    assert result.new_records == 3
    [refusal] = result.refusals
    assert refusal.span_ids == (bad.record.span_id,)
    assert refusal.reason.startswith("record_")
    assert len(refusal.message) < 200
    for item in good:
        assert await store.record(project_id, item.record.id) is not None


@pytest.mark.parametrize(
    "harmless",
    [
        {"attributes": {"x" * 10_000: "y" * 1_000_000}},
        {"attributes": {"a": deep(60)}},
        {"attributes": {"": "", "$where": "1", "a.b.c": {"": {}}}},
        {"endpoint": "GET /\0<script>"},
        {"duration": float("inf")},
        {"path": "x" * 1_000_000},
    ],
    ids=lambda harmless: next(iter(harmless)),
)
async def test_odd_but_storable_values_are_stored(store, project_id, make, harmless):
    record = make.record(project_id, **harmless)
    assert outcome(await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))) == (1, 0, [])
    detail = await store.record(project_id, record.id)
    assert {name: getattr(detail.record, name) for name in harmless} == harmless


async def test_a_call_tree_that_is_too_large_leaves_its_record_without_a_profile(store, project_id, make):
    # Given a profile above the document limit of the database
    item = replace(make.profiled(make.record(project_id)), payload=os.urandom(17 * 1024 * 1024))
    # When it is written
    result = await store.write(IncomingBatch(records=[item]))
    # Then the span is not lost, and the record promises no call tree
    [refusal] = result.refusals
    assert (result.new_records, refusal.reason, list(refusal.span_ids)) == (1, "profile_too_large", [])
    detail = await store.record(project_id, item.record.id)
    assert (detail.record.profile, detail.call_tree) == (None, None)


async def test_child_spans_that_are_too_large_are_refused_alone(store, project_id, make):
    # Given child spans above the document limit beside a record
    record = make.record(project_id)
    small = make.span(record.trace_id, parent=record.span_id)
    large = make.span(record.trace_id, parent=record.span_id, attributes={"a": os.urandom(17_000_000).hex()})
    chunks = [make.chunk(project_id, [large]), make.chunk(project_id, [small])]
    # When they are written
    result = await store.write(IncomingBatch(records=[IncomingRecord(record=record)], child_spans=chunks))
    # Then the rest is there
    [refusal] = result.refusals
    assert (refusal.reason, list(refusal.span_ids)) == ("child_spans_too_large", [large.span_id])
    detail = await store.record(project_id, record.id)
    assert [span.span_id for span in detail.child_spans] == [small.span_id]


async def test_an_id_that_another_project_has_is_refused_and_not_overwritten(store, project_id, make):
    # Given a record of one project
    item = make.profiled(make.record(project_id))
    await store.write(IncomingBatch(records=[item]))
    # When another project sends the same trace and span id
    other = (await store.project_for_service("other")).id
    copy = replace(item, record=replace(item.record, project_id=other, endpoint="GET /stolen"))
    result = await store.write(IncomingBatch(records=[copy]))
    # Then it is told so, and the first record is as it was
    assert outcome(result) == (0, 0, ["profile_id_taken", "record_id_taken"])
    assert await store.record(other, item.record.id) is None
    assert (await store.record(project_id, item.record.id)).record.endpoint == item.record.endpoint


async def test_records_of_several_projects_in_one_batch_stay_apart(store, make):
    projects = [(await store.project_for_service(name)).id for name in ("a", "b")]
    items = [IncomingRecord(record=make.record(project)) for project in projects]
    await store.write(IncomingBatch(records=items))
    for project, item in zip(projects, items, strict=True):
        page = await store.records(RecordQuery(project_id=project))
        assert [record.id for record in page.items] == [item.record.id]


async def test_everything_expires_after_the_projects_retention(store, project_id, make, documents):
    # Given a record of two days ago in a project with the default retention
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
    item = make.profiled(make.record(project_id, timestamp=start))
    chunk = replace(make.chunk(project_id, [make.span(item.record.trace_id)]), timestamp=start)
    await store.write(IncomingBatch(records=[item], child_spans=[chunk]))
    # Then all of it expires 30 days after the request
    for collection in ("performance_records", "profiles", "child_spans"):
        [document] = documents(collection)
        assert document["expires_at"] == start + timedelta(days=30)


@pytest.mark.parametrize("years", [-50, 50])
async def test_a_clock_that_is_years_off_does_not_decide_the_expiry(
    store, project_id, make, documents, years
):
    start = datetime.now(UTC) + timedelta(days=365 * years)
    await store.write(
        IncomingBatch(records=[IncomingRecord(record=make.record(project_id, timestamp=start))])
    )
    [document] = documents("performance_records")
    left = document["expires_at"] - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


async def test_a_projects_own_retention_counts(store, project_id, make, documents, database):
    database.projects.update_one({"_id": bson.ObjectId(project_id)}, {"$set": {"config.retention_days": 3}})
    record = make.record(project_id)
    await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))
    [document] = documents("performance_records")
    assert timedelta(days=2) < document["expires_at"] - datetime.now(UTC) < timedelta(days=3)


async def test_new_records_are_noted_as_activity_of_the_project(store, project_id, make):
    before = await store.project(project_id)
    await store.write(IncomingBatch(records=[IncomingRecord(record=make.record(project_id))]))
    after = await store.project(project_id)
    assert before.last_activity is None
    assert after.last_activity is not None


async def test_concurrent_senders_of_one_service_agree_on_its_project(mongodb_url, mongodb_database):
    # Given several processes' stores, as far as the database can tell
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)

    async def first_contact() -> list[str]:
        async with open_store(settings) as store:
            return [
                project.id
                for project in await asyncio.gather(*map(store.project_for_service, ["a", "b"] * 8))
            ]

    # When they open at once and meet the same new services
    found = await asyncio.gather(*(first_contact() for _ in range(4)))
    # Then each service has one project
    assert len({project for projects in found for project in projects}) == 2
    with MongoClient(mongodb_url) as client:
        assert client[mongodb_database].projects.count_documents({}) == 2


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("  shop ", "shop"),
        ("", "unknown_service"),
        (" \t\n", "unknown_service"),
        ("a\0b\nc", "a\ufffdb\ufffdc"),
        ("\ud800", "\ufffd"),
        ("x\u202egnp", "x\ufffdgnp"),
        ("x" * 100_000, "x" * 200),
        ("e\u0301", "é"),
        ("商店", "商店"),
        ("{$ne: 1}", "{$ne: 1}"),
    ],
)
async def test_any_service_name_becomes_a_project_name(store, service, name):
    project = await store.project_for_service(service)
    assert project.name == name
    assert await store.project_for_service(service) == project
    assert project.status == "active"


async def test_a_created_project_is_found_by_id_and_key(store):
    project = await store.create_project(
        " Shop ", description="sells", framework="flask", base_url="https://shop.example"
    )
    assert (project.name, project.framework) == ("Shop", "flask")
    found = replace(project, project_key=project.id)
    assert await store.project(project.id) == found
    assert await store.project(project.project_key) == found
    assert await store.projects_for_keys([project.project_key]) == {project.project_key: found}
    assert await store.project_for_service("Shop") == found


async def test_keys_of_projects_are_fresh(store):
    keys = {(await store.create_project(name)).project_key for name in ("a", "b", "c")}
    assert len(keys) == 3
    assert min(map(len, keys)) >= 32


async def test_a_name_that_is_taken_is_refused(store):
    await store.create_project("shop")
    with pytest.raises(ProjectExists, match="shop"):
        await store.create_project("shop ")


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": "  "},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"name": "a\u202eb"},
        {"name": "\ud800"},
        {"name": "ok", "description": "\ud800"},
        {"name": "ok", "description": "x" * 3_000},
        {"name": "ok", "base_url": "x" * 3_000},
        {"name": "ok", "base_url": "ftp://shop.example"},
        {"name": "ok", "base_url": "https://shop.example\n"},
        {"name": "ok", "framework": "rails"},
    ],
    ids=lambda values: str(values)[:40].encode("ascii", "replace").decode(),
)
async def test_a_project_that_cannot_be_is_refused(store, values):
    with pytest.raises(InvalidProject):
        await store.create_project(**values)
    assert (await store.projects()).total == 0


@pytest.mark.parametrize("status", ["inactive", "archived"])
async def test_the_key_of_an_inactive_project_lets_nobody_write(store, database, status):
    # Given two projects, of which one is not active any more
    project, other = [await store.create_project(name) for name in ("shop", "other")]
    database.projects.update_one({"name": "shop"}, {"$set": {"status": status}})
    # When their keys are looked up for writing, then only the other's has a project
    found = await store.projects_for_keys([project.project_key, other.project_key])
    assert set(found) == {other.project_key}
    # And it can still be read, and is found by its service
    assert (await store.project(project.project_key)).status == status
    assert (await store.projects_for_services(["shop"]))["shop"].status == status


@pytest.mark.parametrize(
    "key", ["", "opk_unknown", "\0", "\ud800", "x" * 100_000, "6b017725f553b3b44d161362"]
)
async def test_an_unknown_key_has_no_project(store, project_id, key):
    assert await store.projects_for_keys([key]) == {}


async def test_a_large_batch_lets_others_have_their_turn(store, project_id, make, monkeypatch):
    # Given a batch that takes long to make documents of
    monkeypatch.setattr(writer, "_TURN_SECONDS", 0.0)
    batch = IncomingBatch(records=[IncomingRecord(record=make.record(project_id)) for _ in range(200)])
    turns, turns_at_each = 0, []
    real = writer.prepare

    def prepare(*arguments):
        turns_at_each.append(turns)
        return real(*arguments)

    async def other_work():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    # When it is written
    monkeypatch.setattr(writer, "prepare", prepare)
    other = asyncio.create_task(other_work())
    result = await store.write(batch)
    other.cancel()

    # Then others had a turn between any two documents
    assert outcome(result) == (200, 0, [])
    assert len(set(turns_at_each)) == 200


async def test_a_record_is_not_stored_without_its_child_spans(store, project_id, make, monkeypatch):
    # Given a database that takes no child spans, because no collection may have such a name
    record = make.record(project_id)
    span = make.span(record.trace_id, parent=record.span_id)
    batch = IncomingBatch(
        records=[IncomingRecord(record=record)], child_spans=[make.chunk(project_id, [span])]
    )

    # When a record comes with some
    with monkeypatch.context() as broken:
        broken.setattr(indexes, "CHILD_SPANS", "c" * 300)
        with pytest.raises(StoreUnavailable):
            await store.write(batch)

    # Then it is not there either, until both are
    assert await store.record(project_id, record.id) is None
    assert outcome(await store.write(batch)) == (1, 0, [])
