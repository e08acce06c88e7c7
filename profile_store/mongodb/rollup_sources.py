"""What rollups are made of: the records and profiles of a project, asked for by time."""

from __future__ import annotations

import asyncio
import heapq
import zlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import pymongo
from bson import ObjectId

from profile_store.model import DEFAULT_RETENTION_DAYS
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, Document
from profile_store.request_facts.measured import measured_facts
from profile_store.rollups.bucket import MAX_GROUPS, Bucket, GroupKey
from profile_store.rollups.histogram import LN_GAMMA, MAX_DURATION_US, LatencyHistogram
from profile_store.rollups.measures import MAX_PER_REQUEST, STATUS_CLASSES, Measures, microseconds
from profile_store.rollups.trees import TreeMerger
from profile_store.rollups.windows import Window

MAX_PROFILES_PER_TREE = 1_000
"""So many profiles of one group and hour are merged; of more, always the same sample."""

_PROFILES_AT_ONCE = 20
_GROUPS_BEFORE_CAP = 2 * MAX_GROUPS
_DETAILS = {
    **dict.fromkeys((*GroupKey._fields, "facts"), True),
    "profile.cpu_time": True,
}


class Expiry(NamedTuple):
    """From `until` on some of the sources are gone, by a retention of so many days."""

    until: datetime
    retention_days: int


@dataclass(slots=True)
class ProfiledRequests:
    """The profiled requests of one group: how many there are, and the ids of those to merge."""

    seen: int = 0
    sample: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    """A heap; the first has the largest hash and goes when a smaller one comes."""
    earliest_expiry: Expiry | None = None

    def add(self, key: bytes, expiry: Expiry) -> None:
        """Keep the smallest hashes of all keys: the same sample in whatever order they come."""
        self.seen += 1
        if self.earliest_expiry is None or expiry < self.earliest_expiry:
            self.earliest_expiry = expiry
        item = (-zlib.crc32(key), key)
        if len(self.sample) < MAX_PROFILES_PER_TREE:
            heapq.heappush(self.sample, item)
        else:
            heapq.heappushpop(self.sample, item)

    def keys(self) -> list[bytes]:
        """The sample in an order that depends on nothing else."""
        return sorted(key for _, key in self.sample)


@dataclass(frozen=True, slots=True)
class Rolled:
    """The requests of a window. `earliest_expiry`: from then on some of them are gone."""

    bucket: Bucket
    earliest_expiry: Expiry | None


class RollupSources:
    """Every query names the project and a range of time, and an index serves it."""

    def __init__(self, database: Database) -> None:
        self._records = database[indexes.RECORDS]
        self._profiles = database[indexes.PROFILES]

    async def requests(self, project_id: ObjectId, window: Window, limit_seconds: float) -> Rolled:
        """All requests of a window by group. Memory is bounded by groups, not by requests.

        The database counts per group and histogram bucket, in the order of the groups, so each group is
        complete before the next begins and the rarest can be dropped on the way.

        Raises:
            PyMongoError: among others when it takes longer than `limit_seconds`.
        """
        bucket = Bucket()
        expiry: Expiry | None = None
        open_key: GroupKey | None = None
        open_measures = Measures()
        with pymongo.timeout(limit_seconds):
            rows = await self._records.aggregate(
                _counting(project_id, window), allowDiskUse=True, hint=indexes.RECENT
            )
            async for row in rows:
                key = GroupKey(*(row["_id"][name] for name in "emvn"))
                if key != open_key:
                    if open_key is not None:
                        bucket.add(open_key, open_measures)
                    if len(bucket.groups) > _GROUPS_BEFORE_CAP:
                        bucket.cap()
                    open_key, open_measures = key, Measures()
                open_measures.merge(_measures_of_row(row))
                of_row = Expiry(row["x"], row["r"])
                expiry = of_row if expiry is None else min(expiry, of_row)
            if open_key is not None:
                bucket.add(open_key, open_measures)
            bucket.cap()
            if bucket.total.count:
                await self._add_details(project_id, window, bucket)
        return Rolled(bucket, expiry)

    async def _add_details(self, project_id: ObjectId, window: Window, bucket: Bucket) -> None:
        """CPU and database times, which only profiled requests know."""
        profiled = self._records.find(_profiled_in(project_id, window), _DETAILS, hint=indexes.PROFILED)
        async for record in profiled:
            key = GroupKey(*(record[name] for name in GroupKey._fields))
            for measures in (bucket.total, bucket.measures_of(key)):
                _add_details(measures, record)

    async def profiled(
        self, project_id: ObjectId, window: Window, names: Mapping[str, str], *, limit: int = 0
    ) -> dict[GroupKey, ProfiledRequests]:
        """The profiled requests of a window that match `names`, by group, those with the most of them first.

        With a limit, so many requests at most, whichever.

        Raises:
            PyMongoError.
        """
        groups: dict[GroupKey, ProfiledRequests] = {}
        filters = _profiled_in(project_id, window) | dict(names)
        fields = dict.fromkeys((*GroupKey._fields, "expires_at", "retention_days"), True)
        found = self._records.find(filters, fields, hint=indexes.PROFILED, limit=limit)
        async for record in found:
            key = GroupKey(*(record[name] for name in GroupKey._fields))
            expiry = Expiry(record["expires_at"], record.get("retention_days", DEFAULT_RETENTION_DAYS))
            groups.setdefault(key, ProfiledRequests()).add(record["_id"], expiry)
        return dict(sorted(groups.items(), key=lambda item: (-item[1].seen, item[0])))

    async def merged(self, project_id: ObjectId, requests: ProfiledRequests) -> AsyncGenerator[TreeMerger]:
        """Merge the profiles of a sample. Yields after each few, so that the caller decides about pauses.

        Raises:
            PyMongoError.
        """
        merger = TreeMerger()
        keys = requests.keys()
        for first in range(0, len(keys), _PROFILES_AT_ONCE):
            some = keys[first : first + _PROFILES_AT_ONCE]
            found = self._profiles.find({"_id": {"$in": some}, "project_id": project_id}, {"payload": True})
            payloads = {profile["_id"]: profile["payload"] async for profile in found}
            await asyncio.to_thread(_add_payloads, merger, [payloads[key] for key in some if key in payloads])
            yield merger


def _add_payloads(merger: TreeMerger, payloads: list[bytes]) -> None:
    for payload in payloads:
        merger.add_payload(payload)


def _profiled_in(project_id: ObjectId, window: Window) -> Document:
    return {
        "project_id": project_id,
        "timestamp": {"$gte": window.start, "$lt": window.end},
        "has_profile": True,
    }


def _counting(project_id: ObjectId, window: Window) -> list[Document]:
    """One row per group, status class, outcome and histogram bucket (see `histogram.bucket_index`)."""
    duration_us = {"$min": [{"$multiply": ["$duration", 1_000_000]}, MAX_DURATION_US]}
    index = {
        "$cond": [
            {"$gt": [duration_us, 1]},
            {"$toInt": {"$ceil": {"$divide": [{"$ln": duration_us}, LN_GAMMA]}}},
            0,
        ]
    }
    return [
        {
            "$match": {
                "project_id": project_id,
                "timestamp": {"$gte": window.start, "$lt": window.end},
            }
        },
        {
            "$group": {
                "_id": {
                    "e": "$endpoint",
                    "m": "$method",
                    "v": "$version",
                    "n": "$environment",
                    "s": {"$floor": {"$divide": ["$status_code", 100]}},
                    "f": "$failed",
                    "b": index,
                },
                "count": {"$sum": 1},
                "seconds": {"$sum": "$duration"},
                "shortest": {"$min": "$duration"},
                "longest": {"$max": "$duration"},
                "first": {"$min": "$timestamp"},
                "last": {"$max": "$timestamp"},
                "x": {"$min": "$expires_at"},
                "r": {"$min": {"$ifNull": ["$retention_days", DEFAULT_RETENTION_DAYS]}},
            }
        },
        {"$sort": {"_id": 1}},
    ]


def _measures_of_row(row: Mapping[str, Any]) -> Measures:
    key, count = row["_id"], int(row["count"])
    classes = [0] * STATUS_CLASSES
    status_class = int(key["s"] or 0)
    classes[status_class if 0 < status_class < STATUS_CLASSES else 0] = count
    return Measures(
        count=count,
        failed=count if key["f"] else 0,
        status_classes=classes,
        duration_us=microseconds(row["seconds"]),
        min_us=microseconds(row["shortest"]),
        max_us=microseconds(row["longest"]),
        first_ms=_milliseconds(row["first"]),
        last_ms=_milliseconds(row["last"]),
        latencies=LatencyHistogram({int(key["b"]): count}),
    )


def _add_details(measures: Measures, record: Mapping[str, Any]) -> None:
    measures.profiles += 1
    profile: Mapping[str, Any] = record.get("profile") or {}
    cpu_time = profile.get("cpu_time")
    if cpu_time is not None:
        measures.cpu_requests += 1
        measures.cpu_us += microseconds(cpu_time, at_most=MAX_PER_REQUEST)
    if facts := record.get("facts"):
        database = measured_facts(facts).database
        measures.database_requests += 1
        measures.database_calls += database.count if database.count <= MAX_PER_REQUEST else 0
        measures.database_us += microseconds(database.duration, at_most=MAX_PER_REQUEST)


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1_000)
