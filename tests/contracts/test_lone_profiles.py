"""Profiles that come without their span find its record, whichever comes first."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from profile_store.model import HotFunctionFacts, IncomingBatch, IncomingProfile, IncomingRecord, RecordQuery

pytestmark = pytest.mark.anyio

HOT = HotFunctionFacts(
    function="view",
    module="shop.views",
    file="shop/views.py",
    line=7,
    self_duration=0.2,
    duration=0.25,
    share=0.8,
)


@pytest.fixture
def profile_of(make):
    def of(record, **changes):
        values = {
            "project_id": record.project_id,
            "trace_id": record.trace_id,
            "span_id": record.span_id,
            "timestamp": datetime.now(UTC),
            "payload": make.payload(),
            "profile": make.profile,
            "hot_functions": [HOT],
            "facts": '{"memory":{"rss":84000000}}',
        }
        return IncomingBatch(profiles=[IncomingProfile(**values | changes)])

    return of


async def assert_joined(store, record):
    detail = await store.record(record.project_id, record.id)
    assert detail.call_tree.duration_us == 250_000
    assert detail.record.profile.sample_count == 25
    assert detail.record.hot_functions == [HOT]
    assert detail.record.facts == '{"memory":{"rss":84000000}}'
    profiled = await store.records(RecordQuery(project_id=record.project_id, profiled=True))
    assert [item.id for item in profiled.items] == [record.id]


async def test_a_profile_that_comes_after_its_record_joins_it(store, project_id, make, profile_of):
    record = make.record(project_id)
    await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))

    result = await store.write(profile_of(record))

    assert (result.new_records, result.new_profiles, result.refusals) == (0, 1, [])
    [joined] = result.joined
    assert (joined.project_id, joined.record_id, joined.endpoint) == (project_id, record.id, record.endpoint)
    await assert_joined(store, record)


async def test_a_profile_waits_unseen_for_its_record(store, project_id, make, profile_of):
    # Given a profile whose span has not come
    record = make.record(project_id)
    assert (await store.write(profile_of(record))).joined == []
    assert await store.record(project_id, record.id) is None
    assert await store.call_tree(project_id, record.id) is None

    # When the span comes among others
    others = [IncomingRecord(record=make.record(project_id)) for _ in range(3)]
    result = await store.write(IncomingBatch(records=[*others, IncomingRecord(record=record)]))

    # Then that record, and no other, has it
    assert [joined.record_id for joined in result.joined] == [record.id]
    await assert_joined(store, record)


async def test_both_at_the_same_time_are_joined(store, project_id, make, profile_of):
    records = [make.record(project_id) for _ in range(20)]

    await asyncio.gather(
        *(store.write(IncomingBatch(records=[IncomingRecord(record=record)])) for record in records),
        *(store.write(profile_of(record)) for record in records),
    )

    for record in records:
        assert await store.call_tree(project_id, record.id) is not None


async def test_repeating_either_changes_nothing(store, project_id, make, profile_of):
    record = make.record(project_id)
    batches = [profile_of(record), IncomingBatch(records=[IncomingRecord(record=record)])]
    for batch in batches:
        await store.write(batch)
    before = await store.record(project_id, record.id)

    for batch in batches:
        again = await store.write(batch)
        assert (again.new_records, again.new_profiles, again.refusals, again.joined) == (0, 0, [], [])

    assert await store.record(project_id, record.id) == before


async def test_a_record_keeps_the_profile_that_it_came_with(store, project_id, make, profile_of):
    item = make.profiled(make.record(project_id))
    await store.write(IncomingBatch(records=[item]))

    result = await store.write(profile_of(item.record, payload=make.payload(9.0), facts="{}"))

    assert result.joined == []
    detail = await store.record(project_id, item.record.id)
    assert (detail.call_tree.duration_us, detail.record.facts) == (250_000, "")


async def test_a_profile_never_joins_a_record_of_another_project(store, project_id, make, profile_of):
    other = (await store.project_for_service("other")).id
    record = make.record(project_id)
    await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))

    result = await store.write(profile_of(record, project_id=other))

    assert result.joined == []
    assert (await store.record(project_id, record.id)).record.profile is None


async def test_a_lone_profile_with_the_id_of_another_projects_record_in_the_same_batch_joins_nothing(
    store, project_id, make, profile_of
):
    # Given a record of each of two projects
    other = (await store.project_for_service("other")).id
    foreign, own = make.record(other), make.record(project_id)
    await store.write(IncomingBatch(records=[IncomingRecord(record=record) for record in (foreign, own)]))

    # When the other project sends a profile with the id of our record, beside one of its own
    stray, right = (profile_of(record, project_id=other).profiles[0] for record in (own, foreign))
    ours = profile_of(make.record(project_id)).profiles[0]
    result = await store.write(IncomingBatch(profiles=[stray, right, ours]))

    # Then our record does not have it
    assert [joined.record_id for joined in result.joined] == [foreign.id]
    assert (await store.record(project_id, own.id)).record.profile is None


async def test_a_profile_id_that_another_project_holds_is_refused_with_its_span(
    store, project_id, make, profile_of
):
    other = (await store.project_for_service("other")).id
    record = make.record(project_id)
    await store.write(profile_of(record))

    result = await store.write(profile_of(replace(record, project_id=other)))

    [refusal] = result.refusals
    assert (refusal.reason, refusal.span_ids) == ("profile_id_taken", (record.span_id,))


async def test_a_profile_expires_with_its_project_s_retention(store, project_id, make, profile_of, documents):
    record = make.record(project_id, span_id=os.urandom(8))
    batch = profile_of(record)

    await store.write(batch)

    [document] = documents("profiles")
    assert (document["expires_at"] - batch.profiles[0].timestamp).days in (29, 30)


@pytest.mark.parametrize("first", ["records", "profiles"])
async def test_many_pairs_are_joined_with_few_messages(store, project_id, make, profile_of, database, first):
    # Given more pairs than one message joins, of which one half is there
    records = [make.record(project_id) for _ in range(600)]
    halves = {
        "records": IncomingBatch(records=[IncomingRecord(record=record) for record in records]),
        "profiles": IncomingBatch(profiles=[profile_of(record).profiles[0] for record in records]),
    }
    await store.write(halves.pop(first))

    def commands():
        counted = database.client.admin.command("serverStatus")["metrics"]["commands"]
        return sum(counted[name]["total"] for name in ("find", "insert", "update", "findAndModify"))

    before = commands()
    # When the other half comes
    (other,) = halves.values()
    result = await store.write(other)
    # Then
    assert sorted(joined.record_id for joined in result.joined) == sorted(record.id for record in records)
    assert commands() - before < 20
    page = await store.records(RecordQuery(project_id=project_id, profiled=True))
    assert page.total == 600
