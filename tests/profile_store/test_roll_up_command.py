"""`python -m profile_store roll-up` as the operator runs it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from argparse import Namespace
from datetime import UTC, datetime, timedelta

import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store, roll_up_command
from profile_store.model import IncomingBatch, IncomingRecord, Record
from profile_store.mongodb import rollup_marks
from profile_store.rollups.answers import RollUpStep

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def roll_up(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "profile_store", "roll-up", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def record(project_id: str, timestamp: datetime) -> Record:
    return Record(
        project_id=project_id,
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        parent_span_id=None,
        endpoint="GET /orders",
        method="GET",
        path="/orders",
        status_code=200,
        failed=False,
        duration=0.1,
        timestamp=timestamp,
        start_time_unix_nano=int(timestamp.timestamp()) * 1_000_000_000,
    )


@pytest.fixture
def database(mongodb_url: str, mongodb_database: str):
    with MongoClient(mongodb_url, tz_aware=True, tzinfo=UTC) as client:
        yield client[mongodb_database]


@pytest.fixture
def address(mongodb_url: str, mongodb_database: str) -> dict[str, str]:
    return {"MONGODB_URL": mongodb_url, "MONGODB_DATABASE": mongodb_database}


def test_a_range_of_one_project_is_computed_anew_from_its_records(database, address):
    # Given records of two projects whose rollups are lost
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 3 * HOUR

    async def write() -> None:
        async with open_store(StoreSettings(**address)) as store:
            for name in ("shop", "cart"):
                project_id = (await store.project_for_service(name)).id
                times = [hour, hour, hour + HOUR, hour + 2 * HOUR]
                items = [IncomingRecord(record=record(project_id, time)) for time in times]
                await store.write(IncomingBatch(records=items))

    asyncio.run(write())
    database.rollup_marks.delete_many({})
    # When two hours of one of them are computed
    done = roll_up(
        *("--project", "shop", "--from", f"{hour:%Y-%m-%dT%H:%M}", "--to", (hour + 2 * HOUR).isoformat()),
        **address,
    )
    # Then those are there, and the user has seen it
    assert (done.returncode, done.stdout) == (0, "")
    first, waiting, *progress, last = done.stderr.splitlines()
    assert first == "shop: 2 minutes with requests"
    assert waiting.startswith("waiting some 10 seconds")
    assert all(line.startswith("shop: ") and line.endswith(" hours done") for line in progress)
    assert last == "shop: finished, 2 minutes and the call trees of 2 hours"
    shop = database.projects.find_one({"name": "shop"})["_id"]
    hours = database.rollup_hours.find().sort("start")
    assert [(h["project_id"], h["start"], h["count"]) for h in hours] == [
        (shop, hour, 2),
        (shop, hour + HOUR, 1),
    ]
    assert database.rollup_marks.count_documents({}) == 0


def test_minutes_that_fail_are_named_and_everything_else_is_computed(database, address):
    # Given the records of three hours of two projects, of which one has damaged ones in the two newest
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 4 * HOUR
    times = [hour, hour + HOUR, hour + HOUR + MINUTE, hour + 2 * HOUR]

    async def write() -> None:
        async with open_store(StoreSettings(**address)) as store:
            for name in ("shop", "cart"):
                project_id = (await store.project_for_service(name)).id
                items = [IncomingRecord(record=record(project_id, time)) for time in times]
                await store.write(IncomingBatch(records=items))

    asyncio.run(write())
    shop, cart = (database.projects.find_one({"name": name})["_id"] for name in ("shop", "cart"))
    broken = [hour + HOUR + MINUTE, hour + 2 * HOUR]
    database.performance_records.update_many(
        {"project_id": shop, "timestamp": {"$in": broken}}, {"$set": {"duration": "broken"}}
    )
    # When all is computed anew
    done = roll_up(**address)
    # Then the user has seen each minute that failed, once, and that not all is done
    assert (done.returncode, done.stdout) == (4, "")
    failed = [line for line in done.stderr.splitlines() if line.startswith("shop: the minute")]
    assert [line.split(" failed: ")[0] for line in failed] == [
        f"shop: the minute {minute:%Y-%m-%dT%H:%M}" for minute in reversed(broken)
    ]
    assert done.stderr.splitlines()[-1].startswith(
        "profile_store: minutes or hours that failed: 2, see above"
    )
    assert "Traceback" not in done.stderr
    # And all others are computed
    counts = [(h["project_id"], h["start"], h["count"]) for h in database.rollup_hours.find()]
    assert sorted(counts) == sorted(
        [
            (shop, hour, 1),
            (shop, hour + HOUR, 1),
            (cart, hour, 1),
            (cart, hour + HOUR, 2),
            (cart, hour + 2 * HOUR, 1),
        ]
    )
    assert {mark["start"] for mark in database.rollup_marks.find()} == {*broken}


def test_the_command_ends_although_what_failed_is_due_again(database, address, monkeypatch, capsys):
    # Given an hour that cannot be counted and is tried again at once, always before an earlier one
    monkeypatch.setattr(rollup_marks, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(rollup_marks, "PUT_OFF_SECONDS", 0.0)
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - HOUR
    arguments = Namespace(project="shop", start=None, end=None, follow=False)

    async def write_and_roll_up() -> None:
        async with open_store(StoreSettings(**address)) as store:
            project_id = (await store.project_for_service("shop")).id
            items = [IncomingRecord(record=record(project_id, time)) for time in (minute, minute - HOUR)]
            await store.write(IncomingBatch(records=items))
            database.performance_records.update_many({}, {"$set": {"duration": "broken"}})
            await asyncio.wait_for(roll_up_command.roll_up(store, arguments), 60)

    # When it is computed anew, then the command ends and has told of it once
    with pytest.raises(roll_up_command.CannotRollUp, match="failed: 1, see above"):
        asyncio.run(write_and_roll_up())
    assert capsys.readouterr().err.count(f"the minute {minute:%Y-%m-%dT%H:%M} failed") == 1


def test_the_minutes_of_all_projects_settle_together(address, monkeypatch, capsys):
    # Given requests of three projects
    monkeypatch.setattr(rollup_marks, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(roll_up_command, "_SETTLE_POLL_SECONDS", 0.0)
    names = ["cart", "mail", "shop"]
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - HOUR
    asked: list[tuple[str, str]] = []

    async def write_and_roll_up() -> None:
        async with open_store(StoreSettings(**address)) as store:
            ids = {(await store.project_for_service(name)).id: name for name in names}
            for project_id in ids:
                items = [IncomingRecord(record=record(project_id, minute))]
                await store.write(IncomingBatch(records=items))
            request, step = store.request_roll_up, store.roll_up

            async def noted_request(project_id: str, start: datetime, end: datetime) -> int:
                asked.append(("request", ids[project_id]))
                return await request(project_id, start, end)

            async def noted_step(*, project_id: str) -> RollUpStep:
                asked.append(("step", ids[project_id]))
                return await step(project_id=project_id)

            monkeypatch.setattr(store, "request_roll_up", noted_request)
            monkeypatch.setattr(store, "roll_up", noted_step)
            arguments = Namespace(project=None, start=None, end=None, follow=False)
            await asyncio.wait_for(roll_up_command.roll_up(store, arguments), 60)

    # When all are computed anew
    asyncio.run(write_and_roll_up())
    # Then every project was requested, and every one began to settle, before the first one was waited for
    assert asked[:6] == [(what, name) for what in ("request", "step") for name in names]
    # And the user has seen that each is finished
    told = capsys.readouterr().err.splitlines()
    assert told[-3:] == [f"{name}: finished, 1 minutes and the call trees of 1 hours" for name in names]


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--from", "yesterday"], 2, "'yesterday' is no time such as 2026-11-21T10:30"),
        (["--to", "0001-01-01"], 2, "'0001-01-01' is not between the years 1970 and 9998"),
        (["--to", "9999-12-31T23:59:59-12:00"], 2, "-12:00' is not between the years 1970 and 9998"),
        (["--from", "0001-01-01T00:00+12:00"], 2, "+12:00' is not between the years 1970 and 9998"),
        (["--from", "2026-11-21", "--to", "2026-11-20"], 2, "--from 2026-11-21T00:00 is not before --to"),
        (["--project", "nobody"], 1, "--project 'nobody': no project has this name or id"),
    ],
)
def test_arguments_that_make_no_sense_are_named(address, arguments, code, problem):
    done = roll_up(*arguments, **address)
    assert (done.returncode, done.stdout) == (code, "")
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_address_is_named_without_its_password(address):
    done = roll_up(MONGODB_URL="http://user:password@127.0.0.1/", MONGODB_DATABASE="x")
    assert done.returncode == 2
    assert "MONGODB_URL must begin with mongodb://" in done.stderr
    assert "password" not in done.stderr


def test_an_address_whose_file_is_missing_is_exit_code_2_and_one_line():
    done = roll_up(MONGODB_URL="mongodb://127.0.0.1/?tls=true&tlsCAFile=/nowhere/ca.pem")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "profile_store: MONGODB_URL is not usable: its file /nowhere/ca.pem cannot be"
    )
    assert done.stderr.count("\n") == 1
