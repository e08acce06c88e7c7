from __future__ import annotations

import pytest

from profile_store.model import IncomingBatch, IncomingRecord

pytestmark = pytest.mark.anyio


async def test_what_was_written_is_read_back(store, project_id, make):
    # Given a record with values that BSON alone could not hold
    record = make.record(
        project_id,
        attributes={"a\0key": 1, "big": 2**63, "nested": {"a.b": [b"\x00", None, 1.5, {"$set": True}]}},
        resource={"service.name": "shop"},
        profile=make.profile,
    )
    # When it is written with its call tree
    result = await store.write(IncomingBatch(records=[IncomingRecord(record=record, payload=make.payload())]))
    # Then the same comes back
    detail = await store.record(project_id, record.id)
    assert (result.new_records, result.new_profiles, list(result.refusals)) == (1, 1, [])
    assert detail.record.attributes == record.attributes
    assert detail.record.resource == record.resource
    assert detail.record.timestamp == record.timestamp
    assert detail.record.profile == make.profile
    assert detail.call_tree.duration_us == 250_000


async def test_writing_again_changes_nothing_and_is_a_success(store, project_id, make):
    batch = IncomingBatch(records=[make.profiled(make.record(project_id)) for _ in range(3)])
    await store.write(batch)
    again = await store.write(batch)
    assert (again.new_records, again.new_profiles, list(again.refusals)) == (0, 0, [])
