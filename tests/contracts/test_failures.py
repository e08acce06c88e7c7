from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.contracts import StoreError, StoreUnavailable
from profile_store.embedded_mongodb import EmbeddedMongoDB, embedded_mongodb
from profile_store.model import IncomingBatch, IncomingRecord, RecordQuery
from tests.free_ports import find_free_ports

# The driver leaves a socket open when it is closed while it connects: pymongo 4.20 closes it on OSError only.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

SECRET = "secret of a customer"


@pytest.fixture(autouse=True)
def sockets_of_the_driver_are_collected() -> Iterator[None]:
    """Here, where their warning is expected, and not in some later test."""
    yield
    gc.collect()


@pytest.fixture
def failing_mongod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mongod_executable: Path
) -> Callable[[], AbstractContextManager[EmbeddedMongoDB]]:
    """A server with the fail points of MongoDB's own tests switched on."""
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "mongod"
    wrapper.write_text(f'#!/bin/sh\nexec {mongod_executable} "$@" --setParameter enableTestCommands=1\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    return lambda: embedded_mongodb(tmp_path / "data")


@contextmanager
def fail_inserts(url: str, mode: object, **how: object) -> Iterator[None]:
    """Lets the server fail insert commands in the given way."""
    with MongoClient(url) as client:
        client.admin.command(
            {"configureFailPoint": "failCommand", "mode": mode, "data": {"failCommands": ["insert"], **how}}
        )
        yield
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def batch_of(make, project_id: str, count: int = 3) -> IncomingBatch:
    records = [make.record(project_id, attributes={"note": SECRET}, path=f"/{SECRET}") for _ in range(count)]
    return IncomingBatch(records=[IncomingRecord(record=record) for record in records])


async def total(store, project_id: str) -> int:
    return (await store.records(RecordQuery(project_id=project_id))).total


async def test_a_frozen_server_means_unavailable_and_the_same_batch_may_come_again(make):
    # Given a server that hangs in the middle
    with make.own_mongod() as server:
        async with open_store(StoreSettings(MONGODB_URL=server.url)) as store:
            project_id = (await store.project_for_service("shop")).id
            batch = batch_of(make, project_id)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                # When writing and reading, then both give up within their limit
                async with asyncio.timeout(30):
                    results = await asyncio.gather(
                        store.write(batch),
                        store.check(),
                        store.project(project_id),
                        store.record(project_id, batch.records[0].record.id),
                        store.project_statistics(project_id),
                        return_exceptions=True,
                    )
                assert [type(result) for result in results] == [StoreUnavailable] * 5
            finally:
                os.kill(server.pid, signal.SIGCONT)
            # And once it runs again, the same batch is stored, once
            assert list((await store.write(batch)).refusals) == []
            assert await total(store, project_id) == 3


async def test_what_was_acknowledged_survives_kill_9(make, tmp_path):
    # Given an acknowledged batch
    with embedded_mongodb(tmp_path) as server:
        async with open_store(StoreSettings(MONGODB_URL=server.url)) as store:
            project_id = (await store.project_for_service("shop")).id
            await store.write(batch_of(make, project_id, count=500))
            # When the server is killed the moment after
            os.kill(server.pid, signal.SIGKILL)
            # Then the store is unavailable
            with pytest.raises(StoreUnavailable):
                await store.write(batch_of(make, project_id))
    # And everything is there after a restart
    with embedded_mongodb(tmp_path) as server:
        async with open_store(StoreSettings(MONGODB_URL=server.url)) as store:
            assert await total(store, project_id) == 500


async def test_an_open_store_works_on_after_a_restart_of_the_server(make, tmp_path):
    # Given a store whose server stops, and whose port nobody else is given meanwhile
    (tmp_path / "mongodb.port").write_text(str(find_free_ports(1)[0]))
    first = ExitStack()
    server = first.enter_context(embedded_mongodb(tmp_path))
    async with open_store(StoreSettings(MONGODB_URL=server.url)) as store:
        project_id = (await store.project_for_service("shop")).id
        first.close()
        with pytest.raises(StoreUnavailable):
            await store.check()
        # When the server is back
        with embedded_mongodb(tmp_path):
            # Then nothing has to be opened again
            assert (await store.write(batch_of(make, project_id))).new_records == 3


@pytest.mark.parametrize(
    "failure",
    [
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
        {
            "writeConcernError": {
                "code": 11602,
                "errmsg": "interrupted",
                "errorLabels": ["RetryableWriteError"],
            }
        },
        {"errorCode": 14031},
        {"errorCode": 13},
        {"closeConnection": True},
    ],
    ids=["majority not reached", "stepped down", "disk full", "not authorized", "connection lost"],
)
async def test_without_the_majoritys_answer_nothing_is_a_success(failing_mongod, make, failure, caplog):
    # Given a server that stores or not, but never confirms
    with failing_mongod() as server:
        async with open_store(StoreSettings(MONGODB_URL=server.url)) as store:
            project_id = (await store.project_for_service("shop")).id
            batch = batch_of(make, project_id)
            # When a batch is written, then it may come again
            with (
                fail_inserts(server.url, "alwaysOn", **failure),
                pytest.raises(StoreUnavailable) as caught,
                caplog.at_level(logging.DEBUG),
            ):
                await store.write(batch)
            # And neither the error nor the log repeats a document
            assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text
            # And the repeat is a success that stores everything once
            assert list((await store.write(batch)).refusals) == []
            assert await total(store, project_id) == 3


@pytest.mark.parametrize("code", [2, 15, 10334])
async def test_a_message_that_the_server_refuses_is_halved(failing_mongod, make, code):
    # Given a server that refuses the first messages as a whole, as it does for the sake of one document
    with failing_mongod() as server:
        async with open_store(StoreSettings(MONGODB_URL=server.url)) as store:
            project_id = (await store.project_for_service("shop")).id
            batch = batch_of(make, project_id, count=8)
            with fail_inserts(server.url, {"times": 4}, errorCode=code):
                # When the batch is written
                result = await store.write(batch)
            # Then only the document that was refused alone is lost
            assert result.new_records == 7
            [refusal] = result.refusals
            assert (refusal.reason, len(refusal.span_ids)) == ("record_refused", 1)
            assert await total(store, project_id) == 7


async def test_a_repeat_never_reaches_the_log(store, project_id, make, caplog):
    batch = batch_of(make, project_id)
    await store.write(batch)
    with caplog.at_level(logging.DEBUG):
        await store.write(batch)
    assert SECRET not in caplog.text


async def test_opening_without_a_server_says_so():
    settings = StoreSettings(MONGODB_URL="mongodb://ada:hidden@127.0.0.1:1/?serverSelectionTimeoutMS=200")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as caught:
        async with open_store(settings):
            pass
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


async def test_opening_without_an_address_names_the_setting(monkeypatch):
    monkeypatch.delenv("MONGODB_URL", raising=False)
    with pytest.raises(StoreError, match="MONGODB_URL is not set"):
        async with open_store(StoreSettings()):
            pass


@pytest.mark.parametrize("url", ["mongodb://ada:hidden@", "mongodb://ada:hid/den@h", "mongodb://h:hidden/"])
async def test_an_unusable_address_is_not_repeated(url):
    with pytest.raises(StoreError, match="MONGODB_URL") as caught:
        async with open_store(StoreSettings(MONGODB_URL=url)):
            pass
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


async def test_opening_again_and_at_once_is_harmless(mongodb_url, mongodb_database):
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)

    async def open_and_check() -> None:
        async with open_store(settings) as store:
            await store.check()

    await asyncio.gather(*(open_and_check() for _ in range(4)))
    await open_and_check()


async def test_an_index_in_the_way_is_named(mongodb_url, mongodb_database, database):
    database.profiles.create_index("expires_at", name="mine")
    with pytest.raises(StoreError, match=r"profiles.*expiry.*MONGODB_DATABASE"):
        async with open_store(StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)):
            pass


async def test_statistics_read_rollups_and_no_record(store, project_id, make, database, monkeypatch):
    # Given a request that is rolled up
    monkeypatch.setattr("profile_store.mongodb.rollup_marks.SETTLE_SECONDS", 0.0)
    await store.write(IncomingBatch(records=[IncomingRecord(record=make.record(project_id))]))
    while database.rollup_marks.count_documents({}):
        await store.roll_up()
    # And the profiler of the database, which notes how every query ran
    database.command("profile", 2)
    # When the numbers and the endpoints of the last day are read
    assert (await store.project_statistics(project_id)).total_requests == 1
    assert await store.endpoints(project_id) == ["GET /orders/{id}"]
    database.command("profile", 0)
    # Then no record was fetched: the smallest window and the 95th percentile are answered by an index
    seen = list(database["system.profile"].find({"ns": f"{database.name}.performance_records"}))
    assert seen
    assert {entry["docsExamined"] for entry in seen} == {0}


async def test_what_decides_about_a_write_is_read_as_the_primary_has_it(store, project_id, make, database):
    # Given a record whose profile may be waiting for it, and one that is there already
    known = make.record(project_id)
    await store.write(IncomingBatch(records=[IncomingRecord(record=known)]))
    batch = IncomingBatch(records=[IncomingRecord(record=item) for item in (known, make.record(project_id))])
    # And the profiler of the database, which notes every command
    database.command("profile", 2)
    # When they are written
    await store.write(batch)
    database.command("profile", 0)
    # Then neither look-up reads what the majority is known to have: a new primary does not know that at once
    found = database["system.profile"].find({"command.find": {"$in": ["profiles", "performance_records"]}})
    levels = {entry["command"]["find"]: entry["command"]["readConcern"]["level"] for entry in found}
    assert levels == {"profiles": "local", "performance_records": "local"}
