"""What expires is removed by the database itself, with nobody of ours running."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.model import IncomingBatch
from profile_store.mongodb import rollup_marks
from profile_store.rollups.answers import RollUpStep

pytestmark = pytest.mark.anyio

EXPIRING = {
    "performance_records",
    "profiles",
    "child_spans",
    "rollup_minutes",
    "rollup_hours",
    "rollup_trees",
    "rollup_versions",
}


async def test_the_database_removes_at_its_time_whatever_expires(store, database) -> None:
    # Given a store that was opened, its indexes by collection
    indexes = {name: database[name].list_indexes().to_list() for name in database.list_collection_names()}

    # Then each collection of data has one that removes a document at the moment it names, and no other has
    expiring = sorted(
        (name, dict(index["key"]), index["expireAfterSeconds"])
        for name, found in indexes.items()
        for index in found
        if "expireAfterSeconds" in index
    )
    assert expiring == [(name, {"expires_at": 1}, 0) for name in sorted(EXPIRING)]


@pytest.fixture
def impatient_mongod(make, mongod_executable, tmp_path, monkeypatch):
    """A server of its own that looks every second, not every minute, for what has expired."""
    impatient = tmp_path / "mongod"
    impatient.write_text(f'#!/bin/sh\nexec "{mongod_executable}" "$@" --setParameter ttlMonitorSleepSecs=1\n')
    impatient.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with make.own_mongod() as server:
        yield server


async def test_what_has_expired_disappears_and_nothing_else(impatient_mongod, make, monkeypatch) -> None:
    # Given two requests of different hours and versions, with profile and child spans, rolled up
    monkeypatch.setattr(rollup_marks, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(rollup_marks, "SETTLE_SECONDS", 0.0)
    settings = StoreSettings(MONGODB_URL=impatient_mongod.url)
    async with open_store(settings) as store:
        project_id = (await store.project_for_service("shop")).id
        for hours in (2, 4):
            timestamp = datetime.now(UTC) - timedelta(hours=hours)
            item = make.profiled(make.record(project_id, timestamp=timestamp, version=f"1.{hours}"))
            span = make.span(item.record.trace_id, parent=item.record.span_id)
            batch = IncomingBatch(records=[item], child_spans=[make.chunk(project_id, [span])])
            assert list((await store.write(batch)).refusals) == []
        while await store.roll_up() != RollUpStep():
            pass
    with MongoClient(impatient_mongod.url) as client:
        database = client[settings.mongodb_database]
        stored = {name: [document["_id"] for document in database[name].find()] for name in EXPIRING}
        assert {name: len(ids) for name, ids in stored.items()} == dict.fromkeys(EXPIRING, 2)

        # When the time of one of each has come
        for name, (first, _) in stored.items():
            database[name].update_one({"_id": first}, {"$set": {"expires_at": datetime.now(UTC)}})

        # Then that one disappears, and the other one is there also after the database has looked once more
        def looked() -> int:
            return client.admin.command("serverStatus")["metrics"]["ttl"]["passes"]

        def left() -> dict[str, list[object]]:
            return {name: [document["_id"] for document in database[name].find()] for name in EXPIRING}

        expected = {name: [second] for name, (_, second) in stored.items()}
        await until(lambda: left() == expected)
        passes = looked()
        await until(lambda: looked() >= passes + 2)
        assert left() == expected


async def until(condition) -> None:
    """Wait for a condition, a minute at most."""
    deadline = asyncio.get_running_loop().time() + 60
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
