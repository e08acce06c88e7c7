"""`python -m profile_store roll-up` as the operator runs it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.model import IncomingBatch, IncomingRecord, Record

HOUR = timedelta(hours=1)


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
    first, *progress, last = done.stderr.splitlines()
    assert first == "shop: 2 minutes with requests"
    assert all(line.startswith("shop: ") and line.endswith(" hours done") for line in progress)
    assert last == "shop: finished, 2 minutes and the call trees of 2 hours"
    shop = database.projects.find_one({"name": "shop"})["_id"]
    hours = database.rollup_hours.find().sort("start")
    assert [(h["project_id"], h["start"], h["count"]) for h in hours] == [
        (shop, hour, 2),
        (shop, hour + HOUR, 1),
    ]
    assert database.rollup_marks.count_documents({}) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--from", "yesterday"], 2, "'yesterday' is no time such as 2026-11-21T10:30"),
        (["--from", "2026-11-21", "--to", "2026-11-20"], 4, "--from 2026-11-21T00:00 is not before --to"),
        (["--project", "nobody"], 4, "--project 'nobody': no project has this name or id"),
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
