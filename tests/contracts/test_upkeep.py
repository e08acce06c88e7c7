from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import bson
import pytest

from profile_store import StoreSettings
from profile_store.contracts import StoreUnavailable
from profile_store.model import IncomingBatch, IncomingProfile, IncomingRecord, RecordQuery
from profile_store.mongodb import indexes, rollup_marks, upkeep
from profile_store.mongodb.rollup_documents import KEPT_AT_LEAST
from profile_store.mongodb.store import open_mongodb_store, utc_now
from profile_store.rollups.answers import RequestFilter, RollUpStep
from profile_store.upkeep import upkeep_running
from tests.contracts.test_explain import Profiler, plan_of

pytestmark = pytest.mark.anyio

DATA = ("performance_records", "profiles", "child_spans")


class Clock:
    """The real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(mongodb_url, mongodb_database, anyio_backend, clock):
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    async with open_mongodb_store(settings, clock) as opened:
        yield opened


@pytest.fixture
def fill(store, make):
    """Function (project id, number of requests), each with tree and child spans; and a lone profile."""

    async def fill(project_id: str, count: int = 3) -> list[IncomingRecord]:
        items = [make.profiled(make.record(project_id)) for _ in range(count)]
        chunks = [make.chunk(project_id, [make.span(item.record.trace_id)]) for item in items]
        lone = make.record(project_id)
        profile = IncomingProfile(
            project_id=project_id,
            trace_id=lone.trace_id,
            span_id=lone.span_id,
            timestamp=lone.timestamp,
            payload=make.payload(),
            profile=make.profile,
        )
        await store.write(IncomingBatch(records=items, child_spans=chunks, profiles=[profile]))
        return items

    return fill


@pytest.fixture
def count(database):
    """Function (project id): its documents in all collections."""
    return lambda project_id: sum(
        database[name].count_documents({"project_id": bson.ObjectId(project_id)}) for name in DATA
    )


async def finish(store) -> int:
    """Steps until nothing is left; how many there were."""
    for number in range(1, 200):
        step = await store.upkeep(max_documents=4)
        assert step.removed_documents + step.changed_documents <= 4
        if step.is_finished:
            return number
    raise AssertionError("upkeep does not come to an end")


# --- deletion ----------------------------------------------------------------------------------------------


async def test_a_deleted_project_is_gone_at_once_and_its_data_in_bounded_steps(store, fill, count):
    # Given two projects with data
    shop, other = [await store.create_project(name) for name in ("shop", "other")]
    await fill(shop.id, 6)
    await fill(other.id, 2)
    # When one is deleted
    assert await store.delete_project(shop.id)
    # Then nothing names it any more
    assert await store.project(shop.id) is None
    assert await store.projects_for_keys([shop.project_key]) == {}
    assert [project.name for project in (await store.projects()).items] == ["other"]
    # And its data goes in steps of the size that was asked for
    left = count(shop.id)
    assert left == 19
    while left:
        step = await store.upkeep(max_documents=4)
        # The marks of its minutes, one or two, go as well.
        assert min(4, left) <= step.removed_documents <= 4
        left = count(shop.id)
    assert (await store.upkeep()).is_finished
    assert count(other.id) == 7


async def test_the_name_of_a_deleted_project_is_free_for_a_new_one(store, fill, count, make):
    # Given a service whose project was deleted while its data is still there
    old = await store.project_for_service("shop")
    await fill(old.id)
    await store.delete_project(old.id)
    # When it sends again
    new = await store.project_for_service("shop")
    record = make.record(new.id)
    await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))
    await finish(store)
    # Then it has a new project with nothing but what came since
    assert new.id != old.id
    assert [item.id for item in (await store.records(RecordQuery(project_id=new.id))).items] == [record.id]
    assert (count(old.id), count(new.id)) == (0, 1)


async def test_what_comes_late_for_a_deleted_project_is_removed_too(store, fill, count, clock, documents):
    # Given a deletion that has removed everything
    project = await store.create_project("shop")
    await store.delete_project(project.id)
    await finish(store)
    # When a receiver that remembers the project stores something for it
    clock.ahead = timedelta(minutes=14)
    await fill(project.id)
    # Then nothing of it comes back, and it goes with the next step
    assert await store.project(project.id) is None
    await finish(store)
    assert count(project.id) == 0
    # And after some time nothing is left to remember
    clock.ahead = timedelta(minutes=16)
    await finish(store)
    assert documents("project_chores") == []


async def test_deleting_twice_is_the_same_as_once(store, fill, clock):
    project = await store.create_project("shop")
    await fill(project.id)
    assert await store.delete_project(project.id)
    assert await store.delete_project(project.id)
    await finish(store)
    clock.ahead = timedelta(hours=1)
    await finish(store)
    assert not await store.delete_project(project.id)
    for nobody in ("6b017725f553b3b44d161362", "", "\ud800", "shop"):
        assert not await store.delete_project(nobody)


@pytest.mark.parametrize("dies_before", ["projects", "performance_records", "profiles", "child_spans"])
async def test_a_deletion_goes_on_wherever_it_was_interrupted(
    store, mongodb_url, mongodb_database, fill, count, monkeypatch, dies_before
):
    # Given a process that dies before it deletes from a collection
    project = await store.create_project("shop")
    await fill(project.id)
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)

    class Died(BaseException):
        pass

    async with open_mongodb_store(settings) as dying:
        from pymongo.asynchronous.collection import AsyncCollection

        for method in ("delete_one", "delete_many"):
            original = getattr(AsyncCollection, method)

            async def die_or(self, *arguments, original=original, **options):
                if self.name == dies_before:
                    raise Died
                return await original(self, *arguments, **options)

            monkeypatch.setattr(AsyncCollection, method, die_or)

        async def delete() -> None:
            await dying.delete_project(project.id)
            await dying.upkeep()

        with pytest.raises(Died):
            await delete()
        monkeypatch.undo()
    # When another one does its upkeep
    await finish(store)
    # Then the project and its data are gone
    assert await store.project(project.id) is None
    assert count(project.id) == 0


async def test_several_processes_delete_at_once(store, mongodb_url, mongodb_database, fill, count):
    project = await store.create_project("shop")
    await fill(project.id, 20)
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    async with open_mongodb_store(settings) as other:
        await asyncio.gather(store.delete_project(project.id), other.delete_project(project.id))
        await asyncio.gather(*(finish(each) for each in (store, other, store)))
    assert count(project.id) == 0


async def test_nothing_computed_for_a_deleted_project_stays(store, fill, make, hour, no_waiting, database):
    # Given two projects with names and statistics, and a request of each that is not in them yet
    shop, other = [await store.create_project(name) for name in ("shop", "other")]
    for project in (shop, other):
        await roll_up_profiles(store, make, project.id, hour)
    for project in (shop, other):
        await fill(project.id)
    everywhere = {*DATA, *ROLLED_UP, "rollup_marks", "rollup_versions", "name_lists", "projects"}
    assert collections_of(database, shop.id) == everywhere
    # When one is deleted
    await store.delete_project(shop.id)
    await finish(store)
    # Then no collection has anything of it but what remembers the deletion, and the other has lost nothing
    assert collections_of(database, shop.id) == {"project_chores"}
    assert collections_of(database, other.id) == everywhere


def collections_of(database, project_id: str) -> set[str]:
    """All that name this project, whatever they are for."""
    key = bson.ObjectId(project_id)
    return {
        name
        for name in database.list_collection_names()
        if database[name].find_one({"$or": [{"project_id": key}, {"_id": key}]})
    }


async def test_the_loop_of_a_server_finishes_deletions(store, fill, count):
    # Given a server's loop, and a project with data
    project = await store.create_project("shop")
    await fill(project.id)
    async with upkeep_running(store, every_seconds=0.02), asyncio.timeout(20):
        # When it is deleted
        await store.delete_project(project.id)
        # Then its data goes without anybody asking
        while count(project.id):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("trouble", "logged"), [(StoreUnavailable("gone"), ""), (ZeroDivisionError(), "upkeep failed")]
)
async def test_the_loop_goes_on_after_trouble(caplog, trouble, logged):
    class InTrouble:
        calls = 0

        async def upkeep(self) -> object:
            self.calls += 1
            raise trouble

    store = InTrouble()
    async with upkeep_running(store, every_seconds=0.001), asyncio.timeout(10):
        while store.calls < 3:
            await asyncio.sleep(0.001)
    assert logged in caplog.text
    assert bool(logged) == bool(caplog.text)


async def test_the_loop_ends_although_a_cancellation_is_lost():
    # Given a driver that connects anew when it is cancelled
    class Stubborn:
        lost = 0

        async def upkeep(self) -> object:
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    self.lost += 1
                    if self.lost > 1:
                        raise

    store = Stubborn()
    async with asyncio.timeout(30):
        async with upkeep_running(store):
            await asyncio.sleep(0)
    assert store.lost == 2


# --- retention ---------------------------------------------------------------------------------------------


async def expiries(documents) -> set[timedelta]:
    """How long after the request what is stored goes, in whole days."""
    now = datetime.now(UTC)
    found = {document["expires_at"] - now for name in DATA for document in documents(name)}
    return {timedelta(days=round(left / timedelta(days=1))) for left in found}


@pytest.mark.parametrize("days", [1, 3, 90, 3_650])
async def test_a_changed_retention_counts_for_what_is_stored_already(store, fill, documents, days):
    # Given data of a project with the default retention, and of another project
    project = await store.create_project("shop")
    await fill(project.id, 5)
    # When its retention is changed
    changed = await store.set_retention(project.id, days)
    assert changed.config["retention_days"] == days
    steps = await finish(store)
    # Then everything of it goes that many days after its request, changed in bounded steps
    assert steps >= 4
    assert await expiries(documents) == {timedelta(days=days)}
    assert {document["retention_days"] for name in DATA for document in documents(name)} == {days}


async def test_a_retention_that_is_changed_back_leaves_everything_as_it_was(store, fill, documents):
    project = await store.create_project("shop")
    await fill(project.id)
    before = [documents(name) for name in DATA]
    for days in (7, 365, 30):
        await store.set_retention(project.id, days)
        await store.upkeep(max_documents=5)
    await finish(store)
    assert [documents(name) for name in DATA] == before


async def test_the_retention_of_a_project_changes_nothing_of_another(store, fill, documents):
    shop, other = [await store.create_project(name) for name in ("shop", "other")]
    await fill(other.id)
    before = [documents(name) for name in DATA]
    await store.set_retention(shop.id, 1)
    await finish(store)
    assert [documents(name) for name in DATA] == before


async def test_what_a_receiver_stores_with_the_retention_before_is_changed_too(store, fill, documents, clock):
    # Given a receiver that has just read the retention
    project = await store.create_project("shop")
    await fill(project.id, 1)
    # When the retention is changed, and the receiver stores with the one it remembers
    await store.set_retention(project.id, 3)
    await finish(store)
    await fill(project.id, 1)
    assert await expiries(documents) == {timedelta(days=3), timedelta(days=30)}
    # Then later steps find that
    clock.ahead = timedelta(minutes=14)
    await finish(store)
    assert await expiries(documents) == {timedelta(days=3)}


async def test_documents_of_an_earlier_version_had_the_default_retention(store, fill, documents, database):
    project = await store.create_project("shop")
    await fill(project.id)
    for name in DATA:
        database[name].update_many({}, {"$unset": {"retention_days": True}})
    await store.set_retention(project.id, 7)
    await finish(store)
    assert await expiries(documents) == {timedelta(days=7)}


async def test_a_wrong_clock_of_a_sender_does_not_matter_for_a_changed_retention(store, documents, make):
    # Given a record from the year 1976, which counts from its arrival
    project = await store.create_project("shop")
    start = datetime.now(UTC) - timedelta(days=365 * 50)
    record = make.record(project.id, timestamp=start)
    await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))
    # When the retention is changed, then it still does
    await store.set_retention(project.id, 7)
    await finish(store)
    assert await expiries(documents) == {timedelta(days=7)}


@pytest.fixture
def no_waiting(monkeypatch):
    """Writers mark each batch, and rollers trust a mark that they see for the second time."""
    monkeypatch.setattr(rollup_marks, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(rollup_marks, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def hour() -> datetime:
    """The beginning of an hour that has ended."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)


ROLLED_UP = ("rollup_minutes", "rollup_hours", "rollup_trees")


async def rolled_up(store) -> None:
    while await store.roll_up() != RollUpStep():
        pass


async def roll_up_profiles(store, make, project_id: str, *times: datetime) -> None:
    items = [make.profiled(make.record(project_id, timestamp=time)) for time in times]
    await store.write(IncomingBatch(records=items))
    await rolled_up(store)


def assert_rollups_have_retention(documents, hour: datetime, days: int) -> None:
    """Each goes when it should, and knows when the first record that it was made of goes."""
    first_to_go = min(record["expires_at"] for record in documents("performance_records"))
    assert first_to_go == hour + timedelta(days=days)
    stays = {
        "rollup_minutes": days + 1,
        "rollup_hours": max(400, days + 1),
        "rollup_trees": max(90, days + 1),
    }
    for name in ROLLED_UP:
        [rollup] = documents(name)
        assert rollup["expires_at"] == hour + timedelta(days=stays[name])
        assert (rollup["sources_until"], rollup["retention_days"]) == (first_to_go, days)


@pytest.mark.parametrize("days", [1, 3, 90, 365, 3_650])
async def test_rollups_follow_a_changed_retention(store, make, hour, no_waiting, documents, days):
    # Given a project with the default retention, rolled up
    project = await store.create_project("shop")
    await roll_up_profiles(store, make, project.id, hour)
    assert_rollups_have_retention(documents, hour, 30)
    # When its retention is changed, then its rollups follow, also back again
    for changed in (days, 30):
        await store.set_retention(project.id, changed)
        await finish(store)
        assert_rollups_have_retention(documents, hour, changed)


async def test_rollups_follow_in_bounded_batches_and_once(
    store, make, hour, no_waiting, documents, monkeypatch
):
    # Given rollups of more minutes than a batch may change, and of another project
    monkeypatch.setattr(upkeep, "_BATCH_DOCUMENTS", 2)
    shop, other = [await store.create_project(name) for name in ("shop", "other")]
    minutes = [hour + timedelta(minutes=n) for n in range(7)]
    for project in (shop, other):
        await roll_up_profiles(store, make, project.id, *minutes)
    # When one retention is changed
    await store.set_retention(shop.id, 90)
    steps = await finish(store)
    # Then the minutes of that project follow, in steps of the size that was asked for, and nothing is left
    assert steps >= (2 * 7 + 7 + 2) / 4
    kept = {
        (str(minute["project_id"]), minute["expires_at"] - minute["start"])
        for minute in documents("rollup_minutes")
    }
    assert kept == {(shop.id, timedelta(days=91)), (other.id, timedelta(days=31))}
    assert (await store.upkeep()).changed_documents == 0


def forget_expired(database, now: datetime) -> None:
    """What the database itself does within a minute."""
    for name in (*DATA, *ROLLED_UP):
        database[name].delete_many({"expires_at": {"$lte": now}})


async def test_minutes_within_a_prolonged_retention_are_known_and_take_late_requests(
    store, make, hour, no_waiting, clock, database
):
    # Given a rolled up request of a project whose retention was prolonged from 30 to 90 days
    project = await store.create_project("shop")
    await roll_up_profiles(store, make, project.id, hour)
    await store.set_retention(project.id, 90)
    await finish(store)
    # When somebody asks for half an hour 40 days later
    clock.ahead = timedelta(days=40)
    forget_expired(database, clock())
    window = RequestFilter(project_id=project.id, start=hour, end=hour + timedelta(minutes=30))
    # Then it is known
    assert (await store.statistics(window)).overall.count == 1
    # And a late request of that minute is counted in it and in its hour
    await roll_up_profiles(store, make, project.id, hour)
    assert database.rollup_minutes.find_one()["count"] == 2
    assert database.rollup_hours.find_one()["count"] == 2


async def test_an_hour_that_lost_minutes_to_a_shortened_retention_stays_as_it_was(
    store, make, hour, no_waiting, clock, database
):
    # Given a rolled up hour whose first minute is gone, because the retention was shortened
    project = await store.create_project("shop")
    await roll_up_profiles(store, make, project.id, hour, hour + timedelta(minutes=50))
    await store.set_retention(project.id, 1)
    await finish(store)
    clock.ahead = timedelta(days=2, hours=1)
    forget_expired(database, hour + timedelta(days=2, minutes=30))
    assert database.rollup_minutes.count_documents({}) == 1
    # When the retention is prolonged, and a late request comes
    await store.set_retention(project.id, 90)
    await finish(store)
    await roll_up_profiles(store, make, project.id, hour + timedelta(minutes=50))
    # Then the hour has not lost what it knew
    assert database.rollup_hours.find_one()["count"] == 2


async def test_what_is_rolled_up_while_a_retention_changes_follows_as_well(
    store, make, hour, no_waiting, documents
):
    # Given a changed retention that no record has been given yet
    project = await store.create_project("shop")
    await store.write(IncomingBatch(records=[make.profiled(make.record(project.id, timestamp=hour))]))
    await store.set_retention(project.id, 90)
    # When a roller that knows it comes first
    await rolled_up(store)
    # Then later steps find that
    await finish(store)
    assert_rollups_have_retention(documents, hour, 90)


async def test_rollups_of_an_earlier_version_have_the_retention_that_their_dates_tell(
    store, make, hour, no_waiting, documents, database
):
    # Given rollups that do not say it, of a project with a retention of its own
    project = await store.create_project("shop")
    await store.set_retention(project.id, 60)
    await roll_up_profiles(store, make, project.id, hour)
    for name in ROLLED_UP:
        database[name].update_many({}, {"$unset": {"retention_days": True}})
    # When it is changed, then they follow
    await store.set_retention(project.id, 90)
    await finish(store)
    assert_rollups_have_retention(documents, hour, 90)


async def test_a_retention_that_changes_while_an_older_change_is_forgotten_is_not_forgotten_with_it(
    store, clock, documents, monkeypatch
):
    # Given a change of retention that is old enough to be forgotten
    project = await store.create_project("shop")
    await store.set_retention(project.id, 90)
    clock.ahead = timedelta(minutes=16)
    # When it changes again at that moment
    real = upkeep.ProjectUpkeep._forget_if_old

    async def after_another_change(self, chore):
        await store.set_retention(project.id, 60)
        await real(self, chore)

    monkeypatch.setattr(upkeep.ProjectUpkeep, "_forget_if_old", after_another_change)
    await store.upkeep()
    # Then the new change is kept in mind
    assert len(documents("project_chores")) == 1


@pytest.mark.parametrize("days", [0, -1, 3_651])
async def test_a_retention_out_of_bounds_changes_nothing(store, days):
    project = await store.create_project("shop")
    with pytest.raises(ValueError, match="1 to 3650"):
        await store.set_retention(project.id, days)
    assert (await store.project(project.id)).config == {}


async def test_upkeep_asks_indexes_only(store, fill, database):
    # Given a deleted project and one of another retention, beside the data of a third
    deleted, changed, other = [await store.create_project(name) for name in ("deleted", "changed", "other")]
    for project in (deleted, changed, other):
        await fill(project.id)
    await store.delete_project(deleted.id)
    await store.set_retention(changed.id, 90)
    # When upkeep does its work, and the server writes down what it sees
    with Profiler(database) as profiler:
        assert (await store.upkeep()).is_finished
    searches = [
        asked
        for asked in profiler.questions()
        if asked.operation == "find" and asked.collection in indexes.PROJECT_DATA
    ]
    assert {asked.collection for asked in searches} == set(indexes.PROJECT_DATA)
    for asked in searches:
        # Then no document is read that is not wanted
        plan = database.command({"explain": asked.command, "verbosity": "executionStats"})
        assert "COLLSCAN" not in plan_of(plan), asked
        statistics = plan["executionStats"]
        assert statistics["totalDocsExamined"] <= statistics["nReturned"], asked


async def test_rollups_of_another_retention_are_found_by_an_index_only(
    store, make, hour, no_waiting, database
):
    # Given rollups that have the retention of their project
    project = await store.create_project("shop")
    await roll_up_profiles(store, make, project.id, hour)
    other = {"project_id": bson.ObjectId(project.id), "retention_days": {"$ne": 30}}
    for name in KEPT_AT_LEAST:
        # When upkeep looks for others, then no document is read
        plan = database[name].find(other, {"_id": True}).hint(indexes.BY_RETENTION).explain()
        assert plan["executionStats"]["totalDocsExamined"] == 0


async def test_each_batch_is_bounded_whatever_a_step_may_do(store, fill, count, monkeypatch):
    monkeypatch.setattr(upkeep, "_BATCH_DOCUMENTS", 2)
    project = await store.create_project("shop")
    await fill(project.id, 3)
    await store.delete_project(project.id)
    step = await store.upkeep()
    assert (step.is_finished, count(project.id)) == (True, 0)
    # The marks of its minutes, one or two, went as well.
    assert 11 <= step.removed_documents <= 12


# --- storage report ----------------------------------------------------------------------------------------


async def test_the_storage_report_tells_what_is_there(store, fill):
    # Given two projects, one with three times the data of the other
    shop, other = [await store.create_project(name) for name in ("shop", "other")]
    await fill(shop.id, 30)
    await fill(other.id, 10)
    # When the report is made
    report = await store.storage_report()
    # Then it has every collection with its indexes, and the projects with their shares
    by_name = {storage.name: storage for storage in report.collections}
    assert set(by_name) == {"projects", *indexes.PROJECT_DATA}
    assert {name: by_name[name].documents for name in ("projects", *DATA)} == {
        "projects": 2,
        "performance_records": 40,
        "profiles": 42,
        "child_spans": 40,
    }
    assert by_name["rollup_marks"].documents >= 2
    records = by_name["performance_records"]
    assert records.content_bytes > 40 * 300
    assert set(records.index_bytes) >= {"_id_", "recent", "expiry", "retention"}
    assert records.bytes_per_document > 0
    assert not report.is_sampled
    documents = {(item.project, item.collection): item.documents for item in report.projects}
    assert documents["shop", "performance_records"] == 30
    assert documents["other", "profiles"] == 11
    sizes = {(item.project, item.collection): item.content_bytes for item in report.projects}
    assert sizes["shop", "child_spans"] == pytest.approx(3 * sizes["other", "child_spans"], rel=0.1)


async def test_what_projects_take_is_together_what_their_collections_and_indexes_take(store, fill):
    # Given two projects with data
    shop, other = [await store.create_project(name) for name in ("shop", "other")]
    await fill(shop.id, 30)
    await fill(other.id, 10)
    # When the report is made
    report = await store.storage_report()
    # Then nothing of a collection is left over, but for rounding
    for storage in report.collections:
        shares = [item.bytes_on_disk for item in report.projects if item.collection == storage.name]
        if storage.name in (*DATA, "name_lists"):
            assert len(shares) == 2
        if shares:
            indexes_take = sum(storage.index_bytes.values())
            assert indexes_take > 1_000
            assert sum(shares) == pytest.approx(storage.used_bytes + indexes_take, abs=len(shares))


async def test_the_report_of_an_empty_store_has_no_numbers_to_divide_by(store):
    report = await store.storage_report()
    assert {storage.bytes_per_document for storage in report.collections} == {None}
    assert report.projects == []


async def test_a_large_collection_is_sampled(store, project_of_many, monkeypatch):
    monkeypatch.setattr("profile_store.mongodb.storage.SAMPLED_DOCUMENTS", 50)
    report = await store.storage_report()
    assert report.is_sampled
    [item] = [item for item in report.projects if item.collection == "performance_records"]
    assert (item.project, item.documents) == ("shop", 200)


@pytest.fixture
async def project_of_many(store, make):
    project = await store.create_project("shop")
    records = [IncomingRecord(record=replace(make.record(project.id))) for _ in range(200)]
    await store.write(IncomingBatch(records=records))
    return project
