"""Endpoints, versions and environments of a project are few, and every process names them alike."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pymongo import monitoring

from profile_store import StoreSettings, open_store
from profile_store.model import IncomingBatch, IncomingRecord, RecordQuery
from profile_store.mongodb import name_lists
from profile_store.mongodb.store import open_mongodb_store
from profile_store.name_list import SEATS

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(mongodb_url, mongodb_database):
    return StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)


@pytest.fixture
def by_path(make, project_id):
    """Function (path, **changes) -> a record whose endpoint comes from its path."""

    def build(path, origin="path", **changes):
        record = make.record(project_id, endpoint=f"GET {path}", path=path, **changes)
        return IncomingRecord(record=record, endpoint_origin=origin)

    return build


async def endpoint_of(store, item):
    return (await store.record(item.record.project_id, item.record.id)).record.endpoint


async def endpoints(store, project_id):
    page = await store.records(RecordQuery(project_id=project_id, page_size=5_000))
    return {record.endpoint for record in page.items}


async def test_a_record_beyond_the_limits_is_stored_under_collective_names(store, project_id, by_path):
    # Given more paths, versions and environments than any application has
    many = [
        by_path(f"/item-{'x' * (number % 40)}/{number:x}", version=f"v{number}", environment=f"e{number}")
        for number in range(1_200)
    ]

    # When they are written
    result = await store.write(IncomingBatch(records=many))

    # Then all are there, with few names, and each still says which path it was
    assert (result.new_records, list(result.refusals)) == (1_200, [])
    assert len(await endpoints(store, project_id)) <= SEATS["paths"] + SEATS["branches"] + 1
    last = (await store.record(project_id, many[-1].record.id)).record
    assert last.path == many[-1].record.path
    assert (last.version, last.environment) == ("{other}", "{other}")


async def test_a_client_error_without_a_route_makes_no_endpoint(store, project_id, by_path):
    item = by_path("/wp-login.php", "unmatched", status_code=404)

    await store.write(IncomingBatch(records=[item]))

    assert await endpoint_of(store, item) == "GET /{unmatched}"


async def test_several_processes_agree_and_so_does_the_next_start(settings, project_id, by_path):
    # Given two stores that both get more paths than there are seats, each in another order, at once
    paths = [f"/{first:x}/{second:x}" for first in range(60) for second in range(10)]
    async with open_store(settings) as one, open_store(settings) as two:

        async def send(store, order):
            for start in range(0, len(order), 100):
                batch = [by_path(path) for path in order[start : start + 100]]
                await store.write(IncomingBatch(records=batch))

        await asyncio.gather(send(one, paths), send(two, paths[::-1]), send(one, paths[::2]))

        # When both, and one that starts later, get the same paths again
        async with open_store(settings) as three:
            found = []
            for store in (one, two, three):
                batch = [by_path(path) for path in paths]
                await store.write(IncomingBatch(records=batch))
                found.append([await endpoint_of(store, item) for item in batch[::15]])

    # Then all give the same names
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) > 1


class WritesToNameLists(monitoring.CommandListener):
    """Counts what the driver asks of the collection of names."""

    def __init__(self):
        self.asked = 0

    def started(self, event):
        self.asked += event.command.get(event.command_name) == "name_lists"

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


async def test_known_names_and_floods_cost_no_query(settings, monkeypatch, by_path):
    # Given a project that is full
    listener = WritesToNameLists()
    connect = name_lists_client(listener)
    monkeypatch.setattr("profile_store.mongodb.store.connect", connect)
    async with open_store(settings) as store:
        flood = [by_path(f"/{first:x}/{second:x}") for first in range(60) for second in range(10)]
        await store.write(IncomingBatch(records=[by_path("/orders"), *flood]))
        asked = listener.asked
        assert 0 < asked < 10

        # When it goes on
        for number in range(20):
            batch = [by_path("/orders"), by_path(f"/scan/{number}"), by_path("/none", "unmatched")]
            await store.write(IncomingBatch(records=batch))

    # Then the database is not asked about names at all
    assert listener.asked == asked


def name_lists_client(listener):
    from pymongo import AsyncMongoClient

    def connect(settings):
        url = settings.mongodb_url.get_secret_value()
        return AsyncMongoClient(url, timeoutMS=8_000, event_listeners=[listener])

    return connect


async def test_a_seat_is_kept_by_use_and_lost_without(settings, by_path, documents):
    now = begin = datetime.now(UTC)
    async with open_mongodb_store(settings, lambda: now) as store:
        # Given a full project
        daily = by_path("/daily")
        flood = [by_path(f"/{first:x}/{second:x}") for first in range(60) for second in range(10)]
        await store.write(IncomingBatch(records=[daily, *flood]))

        # When one of its endpoints is used every day
        for _ in range(6):
            now += timedelta(days=1)
            await store.write(IncomingBatch(records=[fresh(daily)]))

        # Then it still has its first seat, and a new one finds a free one
        new, again = by_path("/new"), fresh(daily)
        await store.write(IncomingBatch(records=[new, again]))
        assert [await endpoint_of(store, item) for item in (new, again)] == ["GET /new", "GET /daily"]
        [names] = documents("name_lists")
        assert names["paths"] == [
            ["GET /daily", begin.toordinal(), now.toordinal()],
            ["GET /new", now.toordinal(), now.toordinal()],
        ]


def fresh(item):
    return replace(item, record=replace(item.record, span_id=os.urandom(8)))


async def test_the_names_of_one_project_are_not_those_of_another(store, make):
    ids = [(await store.project_for_service(name)).id for name in ("a", "b")]
    flood = [
        IncomingRecord(record=make.record(ids[0], endpoint=f"job {number}", method=""))
        for number in range(1_100)
    ]
    quiet = IncomingRecord(record=make.record(ids[1], endpoint="job 1099", method=""))

    await store.write(IncomingBatch(records=[*flood, quiet]))

    assert await endpoint_of(store, flood[-1]) == "{other}"
    assert await endpoint_of(store, quiet) == "job 1099"


async def test_endless_projects_do_not_fill_the_memory(store, make, monkeypatch):
    monkeypatch.setattr(name_lists, "_MAX_REMEMBERED_NAMES", 50)
    for number in range(30):
        project = (await store.project_for_service(f"s{number}")).id
        records = [
            IncomingRecord(record=make.record(project, endpoint=f"job {job}", method="")) for job in range(5)
        ]
        await store.write(IncomingBatch(records=records))

    # Each holds 5 endpoints, a version and an environment
    assert 2 <= len(store._names._known) <= 9


async def test_names_that_no_key_could_be_are_kept(store, make, project_id):
    odd = ["$where", "a.b.c", "\0", " ", "GET /{*}", "🦄" * 200]
    items = [IncomingRecord(record=make.record(project_id, endpoint=name, method="")) for name in odd]

    result = await store.write(IncomingBatch(records=items))

    assert list(result.refusals) == []
    assert [await endpoint_of(store, item) for item in items] == odd
