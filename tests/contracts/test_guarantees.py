"""What keeps the store's promises is asked of the database, whatever its address says."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import pytest
from pymongo import AsyncMongoClient, ReadPreference, monitoring
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from profile_store import StoreSettings, open_store
from profile_store.model import IncomingBatch, IncomingProfile, IncomingRecord, RecordQuery
from profile_store.mongodb import indexes, rollup_marks
from profile_store.mongodb.client import connect, database_of, newest, newest_of
from profile_store.rollups.answers import RequestFilter

pytestmark = pytest.mark.anyio

WEAKER = "readPreference=secondaryPreferred&readConcernLevel=available&w=1&journal=false"

READS = {"find", "aggregate"}
WRITES = {"insert", "update", "delete", "findAndModify", "createIndexes"}


class Commands(monitoring.CommandListener):
    """What the driver really sends to one database."""

    def __init__(self, database: str) -> None:
        self._database = database
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.database_name == self._database:
            self.sent.append((event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def named(self, names: set[str]) -> list[dict[str, Any]]:
        return [command for name, command in self.sent if name in names]


@pytest.fixture
def weaker_settings(mongodb_url: str, mongodb_database: str) -> StoreSettings:
    """An address that asks for less than we promise."""
    joint = "&" if "?" in mongodb_url else "?" if mongodb_url.endswith("/") else "/?"
    return StoreSettings(MONGODB_URL=f"{mongodb_url}{joint}{WEAKER}", MONGODB_DATABASE=mongodb_database)


@pytest.fixture
def commands(mongodb_database: str, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """What the stores of this test send."""
    listener = Commands(mongodb_database)
    monkeypatch.setattr(
        "profile_store.mongodb.client.AsyncMongoClient",
        functools.partial(AsyncMongoClient, event_listeners=[listener]),
    )
    return listener


async def test_an_index_may_be_built_for_an_hour_and_nothing_else(
    mongodb_url, mongodb_database, commands
) -> None:
    # When a store is opened on an empty database
    async with open_store(StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)) as store:
        await store.check()
    # Then MongoDB may take an hour for the indexes of each collection, which on a large one take minutes
    builds = commands.named({"createIndexes"})
    assert {build["createIndexes"] for build in builds} >= {"performance_records", *indexes.ROLLUPS}
    assert {build["maxTimeMS"] // 60_000 for build in builds} <= {59, 60}
    # And what comes after them has the limit of the client
    assert [command["maxTimeMS"] // 1_000 for command in commands.named({"find"})[-1:]] == [7]


async def test_a_start_that_waits_for_an_index_says_so(
    mongodb_url, mongodb_database, monkeypatch, caplog
) -> None:
    # Given no patience
    monkeypatch.setattr(indexes, "_TELL_AFTER_SECONDS", 0.0)
    # When a store is opened on an empty database
    async with open_store(StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)):
        pass
    # Then the log names the collections
    assert (
        f"MongoDB is building indexes of {mongodb_database}.performance_records; wait for it"
        in caplog.messages
    )


async def test_the_address_weakens_no_handle(weaker_settings) -> None:
    async with connect(weaker_settings) as client:
        # Given an address that the driver has understood
        assert client.read_preference == ReadPreference.SECONDARY_PREFERRED
        assert (client.write_concern, client.read_concern) == (
            WriteConcern(w=1, j=False),
            ReadConcern("available"),
        )

        # Then no handle of ours has anything of it
        database = database_of(client, weaker_settings)
        handles = [(database, "majority"), (database["projects"], "majority")]
        handles += [(newest_of(database), "local"), (newest_of(database)["projects"], "local")]
        handles += [(newest(database["projects"]), "local")]
        for handle, level in handles:
            assert handle.read_preference == ReadPreference.PRIMARY
            assert handle.write_concern == WriteConcern(w="majority", j=True)
            assert handle.read_concern == ReadConcern(level)


async def test_every_command_asks_for_the_primary_a_majority_and_its_journals(
    weaker_settings, commands, make, monkeypatch
) -> None:
    # Given a store whose marks are rolled up at once
    monkeypatch.setattr(rollup_marks, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(rollup_marks, "SETTLE_SECONDS", 0.0)
    async with open_store(weaker_settings) as store:
        # When everything happens to a project that happens to projects
        project = await store.create_project("orders")
        await store.projects_for_keys([project.project_key])
        await store.project_for_service("shop")
        now = make.record(project.id).timestamp
        first, second = (make.record(project.id, timestamp=now - timedelta(hours=2)) for _ in range(2))
        profile = IncomingProfile(
            project_id=project.id,
            trace_id=second.trace_id,
            span_id=second.span_id,
            timestamp=second.timestamp,
            payload=make.payload(),
            profile=make.profile,
        )
        chunk = make.chunk(project.id, [make.span(first.trace_id)])
        await store.write(IncomingBatch(records=[make.profiled(first)], child_spans=[chunk]))
        await store.write(IncomingBatch(profiles=[profile]))
        joined = await store.write(IncomingBatch(records=[IncomingRecord(record=second)]))
        rolled_up = [await store.roll_up() for _ in range(4)]
        await store.statistics(RequestFilter(project_id=project.id, start=now - timedelta(hours=4), end=now))
        await store.records(RecordQuery(project_id=project.id))
        await store.record(project.id, first.id)
        await store.set_retention(project.id, 7)
        await store.revoke_key(project.id, project.keys[0].prefix)
        await store.delete_project(project.id)
        await store.upkeep()
    assert len(joined.joined) == 1
    assert sum(step.minutes for step in rolled_up) > 0
    assert {name for name, _ in commands.sent} >= READS | WRITES

    # Then nothing may be read anywhere else than on the primary
    assert [command for _, command in commands.sent if "$readPreference" in command] == []
    # And what is read is what a majority has, or the newest
    levels = [command.get("readConcern", {}).get("level") for command in commands.named(READS)]
    assert set(levels) == {"majority", "local"}
    # And everything that is written is in the journals of a majority
    concerns = [command.get("writeConcern", {}) for command in commands.named(WRITES)]
    assert {(concern.get("w"), concern.get("j")) for concern in concerns} == {("majority", True)}
