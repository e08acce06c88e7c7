"""Many upserts in one message, also when another process makes the same documents at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from profile_store.contracts import StoreUnavailable
from profile_store.mongodb.client import Collection

_DUPLICATE_KEY = 11000
_ATTEMPTS = 3


async def upsert_all(collection: Collection, updates: Sequence[UpdateOne]) -> None:
    """Apply every update; those that lost a race for a new document are applied again.

    Raises:
        StoreUnavailable, PyMongoError: some may not be applied.
    """
    for _ in range(_ATTEMPTS):
        if not updates:
            return
        try:
            await collection.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            failed = error.details.get("writeErrors", ())
            if error.details.get("writeConcernErrors") or any(e["code"] != _DUPLICATE_KEY for e in failed):
                raise StoreUnavailable(f"MongoDB could not update {collection.name}") from None
            updates = [updates[int(failure["index"])] for failure in failed]
        else:
            return
    if updates:
        raise StoreUnavailable(f"MongoDB could not update {collection.name}: too many writers at once")
