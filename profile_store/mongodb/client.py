"""The connection: how writes become durable, what reads may see, how long anything may take."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from profile_store.contracts import InvalidStoreSettings
from profile_store.mongodb.urls import readable
from profile_store.settings import StoreSettings

Document: TypeAlias = dict[str, Any]
Client: TypeAlias = AsyncMongoClient[Document]
Database: TypeAlias = AsyncDatabase[Document]
Collection: TypeAlias = AsyncCollection[Document]

# Bounds a whole operation with its retry. Without it a hung primary stalls a write until it wakes up again.
_OPERATION_TIMEOUT_MS = 8_000

# A primary that hangs, or that the network no longer reaches, breaks no connection. The driver's monitor
# notices it after connectTimeoutMS + heartbeatFrequencyMS without a sign of life, and only then interrupts
# what waits for it and repeats that on the new primary. Its defaults, 20 + 10 s, are longer than any
# operation lasts.
_MONITORING_MS = {"connectTimeoutMS": 3_000, "heartbeatFrequencyMS": 1_000}


def connect(settings: StoreSettings) -> Client:
    """A client for the running event loop; it connects at the first operation.

    Raises:
        InvalidStoreSettings: `MONGODB_URL` is missing, or the driver cannot read it or a file that it names.
    """
    if settings.mongodb_url is None:
        raise InvalidStoreSettings(
            "MONGODB_URL is not set. Set it to a MongoDB 6.0 or newer, for example "
            "mongodb://127.0.0.1:27017/?replicaSet=rs0, or use `python -m all_in_one`, which starts one."
        )
    # At DEBUG the driver logs commands with their documents, and LOG_LEVEL may set the level of every logger.
    logging.getLogger("pymongo.command").setLevel(logging.INFO)
    url = settings.mongodb_url.get_secret_value()
    with readable("MONGODB_URL", settings.mongodb_url):
        return AsyncMongoClient(
            url,
            appname="otel-pyinstrument",
            retryWrites=True,
            retryReads=True,
            timeoutMS=_OPERATION_TIMEOUT_MS,
            **_monitoring(url),
        )


def _monitoring(url: str) -> Document:
    """What `url` leaves open: keyword arguments overrule it, but who names these there knows the network."""
    return {name: value for name, value in _MONITORING_MS.items() if f"{name}=".lower() not in url.lower()}


def database_of(client: Client, settings: StoreSettings) -> Database:
    """The database with our guarantees, whatever the address says.

    Majority and journal: with less, acknowledged spans are lost when a primary is killed. Majority reads:
    nobody sees a record that a failover takes back. The primary only: what a secondary lacks yet would be
    missing from rollups for good, and a revoked key would count there.
    """
    return client.get_database(
        settings.mongodb_database,
        codec_options=CodecOptions[Document](tz_aware=True, tzinfo=UTC),
        write_concern=WriteConcern(w="majority", j=True),
        read_concern=ReadConcern("majority"),
        read_preference=ReadPreference.PRIMARY,
    )


def newest(collection: Collection) -> Collection:
    """The collection for reads that decide what is written or answered.

    A majority read may miss what a majority has: a primary that was elected this moment does not know yet how
    far its predecessor had come. It has all of it though, so what it has is read.
    """
    return collection.with_options(read_concern=ReadConcern("local"))


def newest_of(database: Database) -> Database:
    """The same for all collections of a database."""
    return database.with_options(read_concern=ReadConcern("local"))


class DatabaseUser:
    """What every part of the store works with. `clock` gives the current time in UTC."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
