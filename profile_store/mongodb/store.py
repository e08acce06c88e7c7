"""Puts the parts of the store together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pymongo

from profile_store.contracts import Store
from profile_store.mongodb import indexes
from profile_store.mongodb.client import connect, database_of
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.mongodb.indexes import ensure_indexes
from profile_store.mongodb.migration import migrate
from profile_store.mongodb.project_keys import ProjectKeys
from profile_store.mongodb.projects import Projects
from profile_store.mongodb.reachability import wait_for_mongodb
from profile_store.mongodb.reader import RecordReader
from profile_store.mongodb.rollup_tree_reader import CallTreeReader
from profile_store.mongodb.rollups import Rollups
from profile_store.mongodb.statistics import RecentStatistics
from profile_store.mongodb.storage import StorageStatistics
from profile_store.mongodb.upkeep import ProjectUpkeep
from profile_store.mongodb.writer import RecordWriter
from profile_store.settings import StoreSettings

_CLOSE_LIMIT_SECONDS = 2.0


def utc_now() -> datetime:
    """In whole milliseconds, as the database keeps it: what is returned equals what is read later."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1_000 * 1_000)


class MongoDBStore(
    Projects,
    ProjectKeys,
    ProjectUpkeep,
    RecordReader,
    RecordWriter,
    RecentStatistics,
    CallTreeReader,
    Rollups,
    StorageStatistics,
):
    """Implements `profile_store.contracts.Store`; its parts share only the database and the clock."""

    async def check(self) -> None:
        """See `profile_store.contracts.Reader.check`."""
        # A primary that has stepped down still answers `ping`.
        with unavailable_on_failure("answer"):
            await self._database[indexes.PROJECTS].find_one({"_id": None})


@asynccontextmanager
async def open_mongodb_store(
    settings: StoreSettings, clock: Callable[[], datetime] = utc_now
) -> AsyncGenerator[Store]:
    """See `profile_store.open_store`."""
    client = connect(settings)
    try:
        database = database_of(client, settings)
        await wait_for_mongodb(client, settings)
        await migrate(database)
        await ensure_indexes(database)
        yield MongoDBStore(database, clock)
    finally:
        # Ending the server-side sessions would otherwise wait 30 s for a database that is gone.
        with pymongo.timeout(_CLOSE_LIMIT_SECONDS):
            await client.close()
