"""Joins profiles that came as log records with the records of their spans, in whichever order they came.

Both sides do the same: store their own part with majority, then look for the other one. Whoever is second
finds the first, because its majority write ended before the second one began to look, and whichever node is
the primary by then has it. So no order, no two processes at the same time and no fail-over leave a pair
apart. A writer that dies in between has not answered: its sender repeats, and the repetition looks again.
"""

from __future__ import annotations

from collections.abc import Collection as Sized
from collections.abc import Mapping
from typing import TypeAlias

from bson import ObjectId
from pymongo import UpdateOne

from profile_store.contracts import JoinedProfile
from profile_store.model import IncomingBatch
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, Document, newest
from profile_store.mongodb.documents import object_id, profile_fields

# By key of the span: the project, and what the record will show of its profile.
Waiting: TypeAlias = dict[bytes, tuple[ObjectId, Document]]

# Pairs that are joined with one message. A message for each would take longer than senders wait: a Collector
# that empties its queue sends thousands of profiles in one request.
_PAIRS_AT_ONCE = 500


class ProfileJoiner:
    """Gives records the profiles that wait for them. A record that has a profile keeps it."""

    def __init__(self, database: Database) -> None:
        self._records = database[indexes.RECORDS]
        self._newest_records = newest(self._records)
        self._newest_profiles = newest(database[indexes.PROFILES])

    async def join(self, batch: IncomingBatch, *, lost: Sized[bytes]) -> list[JoinedProfile]:
        """Join what the batch completes. Everything of it is durable, save what `lost` names by key.

        When another process joins the same pair at the same time, both may name it.

        Raises:
            PyMongoError: some may be joined; the same batch again joins the rest.
        """
        joined: list[JoinedProfile] = []
        profiles = {item.trace_id + item.span_id: item for item in batch.profiles}
        keys = [key for key in profiles if key not in lost]
        for part in _parts(keys):
            waiting: Waiting = {}
            for item in (profiles[key] for key in part):
                fields = profile_fields(item.profile, item.hot_functions, item.facts)
                waiting[item.trace_id + item.span_id] = object_id(item.project_id), fields
            joined += await self._complete(waiting)
        without = [item.record for item in batch.records if item.record.profile is None]
        projects = {record.trace_id + record.span_id: record.project_id for record in without}
        # One that was refused may name no project at all.
        for part in _parts([key for key in projects if key not in lost]):
            wanted = {key: object_id(projects[key]) for key in part}
            joined += await self._complete(await self._waiting_for(wanted))
        return joined

    async def _waiting_for(self, projects: Mapping[bytes, ObjectId]) -> Waiting:
        filters = _of_projects(projects) | {"for_record": {"$exists": True}}
        found = self._newest_profiles.find(filters, {"project_id": True, "for_record": True})
        return {profile["_id"]: (profile["project_id"], profile["for_record"]) async for profile in found}

    async def _complete(self, waiting: Waiting) -> list[JoinedProfile]:
        """Update the records that are there, also those that have a profile already.

        For these it changes nothing, but the answer waits until a majority knows who gave it to them.
        """
        if not waiting:
            return []
        filters = _of_projects({key: project_id for key, (project_id, _) in waiting.items()})
        found = self._newest_records.find(
            filters, {"project_id": True, "endpoint": True, "has_profile": True}
        )
        records = [record async for record in found if record["project_id"] == waiting[record["_id"]][0]]
        if not records:
            return []
        updates = [
            UpdateOne(
                {"_id": record["_id"], "project_id": record["project_id"], "has_profile": False},
                {"$set": waiting[record["_id"]][1]},
            )
            for record in records
        ]
        await self._records.bulk_write(updates, ordered=False)
        return [
            JoinedProfile(
                project_id=str(record["project_id"]),
                record_id=record["_id"].hex(),
                endpoint=record["endpoint"],
            )
            for record in records
            if not record["has_profile"]
        ]


def _of_projects(keys: Mapping[bytes, ObjectId]) -> Document:
    """The filter for documents by key; it names the projects so that only their shards are asked."""
    return {"project_id": {"$in": list(set(keys.values()))}, "_id": {"$in": list(keys)}}


def _parts(keys: list[bytes]) -> list[list[bytes]]:
    return [keys[first : first + _PAIRS_AT_ONCE] for first in range(0, len(keys), _PAIRS_AT_ONCE)]
