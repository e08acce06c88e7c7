"""Domain model, store contract and its MongoDB implementation.

`open_store` is the only way to a store; nothing outside this package knows which database is behind it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from profile_store.contracts import Store
from profile_store.settings import StoreSettings

__all__ = ["StoreSettings", "check_mongodb", "open_store"]


@asynccontextmanager
async def open_store(settings: StoreSettings) -> AsyncGenerator[Store]:
    """Connect, make sure that the indexes exist, and close the connections at the end.

    The store belongs to the event loop that opens it.

    Raises:
        StoreUnavailable: MongoDB did not answer within its time limit.
        InvalidStoreSettings: `MONGODB_URL` is missing or unusable.
        StoreError: the indexes conflict with existing ones.
    """
    from profile_store.mongodb.store import open_mongodb_store

    async with open_mongodb_store(settings) as store:
        yield store


def check_mongodb(settings: StoreSettings) -> None:
    """Whether the database that `MONGODB_URL` names accepts writes now; blocks for a few seconds at most.

    Raises:
        StoreUnavailable: naming host and port, never user and password, and the remedy.
        InvalidStoreSettings: `MONGODB_URL` is missing or unusable.
    """
    from profile_store.mongodb.reachability import check_mongodb

    check_mongodb(settings)
