"""Joins profiles that came as log records with the records of their spans, in whichever order they came.

Both sides do the same: store their own part with majority, then look for the other one. Whoever is second
finds the first, because its majority write ended before the second one began to look; so no order and no two
processes at the same time leave a pair apart. A writer that dies in between has not answered: its sender
repeats, and the repetition looks again.
"""

from __future__ import annotations

from collections.abc import Collection as Sized
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument

from profile_store.contracts import JoinedProfile
from profile_store.model import IncomingBatch
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, Document
from profile_store.mongodb.documents import profile_fields


class ProfileJoiner:
    """Gives records the profiles that wait for them. A record that has a profile keeps it."""

    def __init__(self, database: Database) -> None:
        self._records = database[indexes.RECORDS]
        self._profiles = database[indexes.PROFILES]

    async def join(self, batch: IncomingBatch, *, lost: Sized[bytes]) -> list[JoinedProfile]:
        """Join what the batch completes. Everything of it is durable, save what `lost` names by key.

        Raises:
            PyMongoError: some may be joined; the same batch again joins the rest.
        """
        joined: list[JoinedProfile] = []
        for item in batch.profiles:
            key = item.trace_id + item.span_id
            if key not in lost:
                fields = profile_fields(item.profile, item.hot_functions, item.facts)
                joined += await self._complete(key, ObjectId(item.project_id), fields)
        without = [item.record for item in batch.records if item.record.profile is None]
        keys = {record.trace_id + record.span_id: record.project_id for record in without}
        if wanted := {key: ObjectId(project) for key, project in keys.items() if key not in lost}:
            # The projects are named so that only their shards are asked.
            waiting = self._profiles.find(
                {
                    "project_id": {"$in": list(set(wanted.values()))},
                    "_id": {"$in": list(wanted)},
                    "for_record": {"$exists": True},
                },
                {"project_id": True, "for_record": True},
            )
            async for profile in waiting:
                joined += await self._complete(profile["_id"], profile["project_id"], profile["for_record"])
        return joined

    async def _complete(self, key: bytes, project_id: ObjectId, fields: Document) -> list[JoinedProfile]:
        record: dict[str, Any] | None = await self._records.find_one_and_update(
            {"_id": key, "project_id": project_id, "has_profile": False},
            {"$set": fields},
            projection={"endpoint": True},
            return_document=ReturnDocument.AFTER,
        )
        if record is None:
            return []
        return [JoinedProfile(project_id=str(project_id), record_id=key.hex(), endpoint=record["endpoint"])]
