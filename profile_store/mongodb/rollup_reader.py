"""Statistics of windows: stored hours and minutes, completed from the records of the newest minutes.

Marks are read first. A minute without one is complete in its rollup; one with a mark is counted in the
records. So every acknowledged request is in the answer, as long as the marks do not pile up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import PyMongoError

from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, DatabaseUser, Document
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.mongodb.rollup_documents import readable_buckets
from profile_store.mongodb.rollup_marks import MINUTES
from profile_store.mongodb.rollup_sources import RollupSources
from profile_store.rollups.answers import (
    GroupBy,
    RequestFilter,
    SeenVersion,
    Series,
    SeriesPoint,
    Statistics,
)
from profile_store.rollups.bucket import Bucket, GroupKey
from profile_store.rollups.measures import Measures
from profile_store.rollups.windows import HOUR, MINUTE, Window, ceil_to, floor_to, plan

MAX_POINTS = 2_000
MAX_LIVE_MINUTES = 10
MAX_WINDOW = timedelta(days=3_650)
MAX_MINUTES_WINDOW = timedelta(days=8)

_MAX_VERSIONS = 1_000
_MAX_WAITING = 5_000
_LIVE_SECONDS = 2.0
_DOCUMENTS_AT_ONCE = 100


class RollupReader(DatabaseUser):
    """Every query names the project and a range of time; what it costs depends on the window alone."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        super().__init__(database, clock)
        self._buckets = Buckets(database)

    async def statistics(self, requests: RequestFilter, *, group_by: GroupBy | None = None) -> Statistics:
        """See `profile_store.contracts.Reader.statistics`."""
        window = window_of(requests, MAX_WINDOW)
        if not ObjectId.is_valid(requests.project_id):
            return Statistics(overall=Measures())
        overall = Measures()
        groups: dict[str, Measures] = {}

        def add(_: datetime, bucket: Bucket) -> None:
            for key, measures in _matching(bucket, requests, group_by):
                overall.merge(measures)
                if key is not None and group_by is not None:
                    groups.setdefault(getattr(key, group_by), Measures()).merge(measures)

        with unavailable_on_failure("compute statistics"):
            behind = await self._read(requests, window, add, group_by=group_by)
        ranked = sorted(groups.items(), key=lambda group: (-group[1].duration_us, group[0]))
        return Statistics(overall=overall, groups=dict(ranked), minutes_behind=behind)

    async def series(self, requests: RequestFilter, resolution: timedelta) -> Series:
        """See `profile_store.contracts.Reader.series`."""
        whole_hours = resolution % HOUR == timedelta(0)
        if resolution < MINUTE or resolution % MINUTE:
            raise ValueError(f"resolution is {resolution}: it must be whole minutes")
        window = window_of(requests, MAX_WINDOW if whole_hours else MAX_MINUTES_WINDOW)
        first = floor_to(window.start, resolution)
        count = (ceil_to(window.end, resolution) - first) // resolution
        if count > MAX_POINTS:
            raise ValueError(f"{count} points of {resolution}: at most {MAX_POINTS} are answered")
        points = [Measures() for _ in range(count)]

        def add(start: datetime, bucket: Bucket) -> None:
            for _, measures in _matching(bucket, requests, None):
                points[(start - first) // resolution].merge(measures)

        behind = 0
        if ObjectId.is_valid(requests.project_id):
            with unavailable_on_failure("compute a series"):
                behind = await self._read(requests, window, add, whole_hours=whole_hours)
        return Series(
            resolution=resolution,
            points=[
                SeriesPoint(start=first + position * resolution, measures=measures)
                for position, measures in enumerate(points)
            ],
            minutes_behind=behind,
        )

    async def versions(self, project_id: str) -> Sequence[SeenVersion]:
        """See `profile_store.contracts.Reader.versions`."""
        if not ObjectId.is_valid(project_id):
            return []
        seen: dict[str, SeenVersion] = {}
        with unavailable_on_failure("list versions"):
            stored = await (
                self._database[indexes.ROLLUP_VERSIONS]
                .find({"project_id": ObjectId(project_id)})
                .sort("last_seen", DESCENDING)
                .limit(_MAX_VERSIONS)
                .to_list()
            )
            for document in stored:
                seen[document["version"]] = SeenVersion(
                    version=document["version"],
                    first_seen=document["first_seen"],
                    last_seen=document["last_seen"],
                )
            for minute in (await self._waiting(ObjectId(project_id), None))[:MAX_LIVE_MINUTES]:
                bucket = await self._buckets.live(ObjectId(project_id), Window(minute, minute + MINUTE))
                for key, measures in (bucket.groups if bucket else {}).items():
                    _see(seen, key.version, measures)
        return sorted(seen.values(), key=lambda version: (version.last_seen, version.version), reverse=True)

    async def _read(
        self,
        requests: RequestFilter,
        window: Window,
        add: Callable[[datetime, Bucket], None],
        *,
        group_by: GroupBy | None = None,
        whole_hours: bool = True,
    ) -> int:
        """Call `add` in a thread with all buckets of a window; returns how many minutes are behind."""
        project = ObjectId(requests.project_id)
        waiting = await self._waiting(project, window)
        parts = plan(window, waiting, max_live=MAX_LIVE_MINUTES, whole_hours=whole_hours)
        with_groups = group_by is not None or bool(wanted_names(requests))
        minutes, behind = list(parts.minutes), parts.behind
        for part in parts.live:
            bucket = await self._buckets.live(project, part)
            if bucket is not None:
                await asyncio.to_thread(add, part.start, bucket)
            else:
                # Too many to count while somebody waits: as they were last rolled up.
                behind += 1
                minutes.append(Window(floor_to(part.start, MINUTE), ceil_to(part.end, MINUTE)))
        hours = [(indexes.ROLLUP_HOURS, part) for part in parts.hours]
        for collection, part in [*hours, *((indexes.ROLLUP_MINUTES, part) for part in minutes)]:
            async for documents in self._buckets.stored(project, collection, part, with_groups=with_groups):
                await asyncio.to_thread(_add_all, add, documents, _keeper(requests))
        return behind

    async def _waiting(self, project: ObjectId, window: Window | None) -> list[datetime]:
        """The minutes that have a mark, newest first."""
        filters: Document = {"project_id": project, "kind": MINUTES}
        if window is not None:
            filters["start"] = {"$gte": floor_to(window.start, MINUTE), "$lt": window.end}
        found = await (
            self._database[indexes.ROLLUP_MARKS]
            .find(filters, {"start": True, "_id": False})
            .sort("start", DESCENDING)
            .limit(_MAX_WAITING)
            .to_list()
        )
        return [mark["start"] for mark in found]


class Buckets:
    """Reads buckets: stored ones, or counted now."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sources = RollupSources(database)

    async def stored(
        self, project: ObjectId, collection: str, window: Window, *, with_groups: bool
    ) -> AsyncIterator[list[Document]]:
        """The stored documents of a window, some at a time."""
        fields = {"start": True, "total": True} | ({"groups": True} if with_groups else {})
        cursor = (
            self._database[collection]
            .find(
                {"project_id": project, "start": {"$gte": window.start, "$lt": window.end}},
                {**fields, "_id": False},
            )
            .sort("start", ASCENDING)
        )
        async for documents in in_lots(cursor, _DOCUMENTS_AT_ONCE):
            yield documents

    async def live(self, project: ObjectId, window: Window) -> Bucket | None:
        """The requests of a minute or less, counted now; None when that takes too long."""
        try:
            return (await self._sources.requests(project, window, _LIVE_SECONDS)).bucket
        except PyMongoError as error:
            if error.timeout:
                return None
            raise


async def in_lots(cursor: Any, size: int) -> AsyncIterator[list[Document]]:
    """All documents of a cursor, so many at a time."""
    while lot := await cursor.to_list(size):
        yield lot


def _add_all(
    add: Callable[[datetime, Bucket], None],
    documents: Sequence[Document],
    keep: Callable[[GroupKey], bool],
) -> None:
    for document in documents:
        for bucket in readable_buckets([document], keep):
            add(document["start"], bucket)


def _matching(
    bucket: Bucket, requests: RequestFilter, group_by: GroupBy | None
) -> list[tuple[GroupKey | None, Measures]]:
    """The groups that pass the filter; the total alone when nobody asks for groups."""
    if group_by is None and not wanted_names(requests):
        return [(None, bucket.total)]
    keep = _keeper(requests)
    return [(key, measures) for key, measures in bucket.groups.items() if keep(key)]


def _keeper(requests: RequestFilter) -> Callable[[GroupKey], bool]:
    wanted = wanted_names(requests).items()
    return lambda key: all(getattr(key, name) == value for name, value in wanted)


def wanted_names(requests: RequestFilter) -> dict[str, str]:
    """What a question asks for, by field of `GroupKey`."""
    return {name: value for name in GroupKey._fields if (value := getattr(requests, name)) is not None}


def window_of(requests: RequestFilter, longest: timedelta) -> Window:
    """The window of a question.

    Raises:
        ValueError: it ends before it begins, or is longer than `longest`.
    """
    if requests.end < requests.start:
        raise ValueError(f"the window ends at {requests.end}, before it begins at {requests.start}")
    if requests.end - requests.start > longest:
        raise ValueError(f"the window has {requests.end - requests.start}, at most {longest} are answered")
    return Window(requests.start, requests.end)


def _see(seen: dict[str, SeenVersion], version: str, measures: Measures) -> None:
    if not version:
        return
    first, last = (
        datetime.fromtimestamp(time_ms / 1_000, UTC) for time_ms in (measures.first_ms, measures.last_ms)
    )
    known = seen.get(version)
    seen[version] = SeenVersion(
        version=version,
        first_seen=min(first, known.first_seen) if known else first,
        last_seen=max(last, known.last_seen) if known else last,
    )
