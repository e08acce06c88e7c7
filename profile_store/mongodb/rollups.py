"""Works marks off: minutes from records, hours from minutes. Nothing is ever added to a stored number.

Whatever dies in between leaves the mark, and so the work, in place. Several rollers may run at once: each
document is written only if it is still the one that was read before its sources were (`revision`), so an
older result never replaces a newer one; whoever loses leaves the mark to the next step.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pymongo
from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, DeleteOne, UpdateOne

from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, DatabaseUser, Document, newest_of
from profile_store.mongodb.errors import unavailable_on_failure
from profile_store.mongodb.retention import RetentionOfProjects
from profile_store.mongodb.rollup_documents import (
    VERSIONS_KEPT,
    bucket_document,
    expiry_fields,
    may_be_computed,
    readable_buckets,
    replace_if_unchanged,
)
from profile_store.mongodb.rollup_marks import MINUTES, TREES, MarkKey, SettlingMarks, set_marks
from profile_store.mongodb.rollup_sources import Expiry, RollupSources
from profile_store.mongodb.rollup_trees import TreeRoller
from profile_store.mongodb.upserts import upsert_all
from profile_store.rollups.answers import RollUpFailure, RollUpStep
from profile_store.rollups.bucket import Bucket, merged
from profile_store.rollups.windows import HOUR, MINUTE, Window, ceil_to, floor_to

# A minute with a million records takes about ten seconds of the database.
_MINUTE_LIMIT_SECONDS = 120.0

_MARKS_LISTED = 2_000
_MINUTES_PER_PROJECT = 20
_STEP_SECONDS = 2.0

# The records of a minute go within a minute after its retention ends; before, all of them are there.
_BEFORE_RETENTION_ENDS = timedelta(hours=1)

Mark = tuple[MarkKey, ObjectId]


class Rollups(DatabaseUser):
    """The maintaining part of the contract."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        super().__init__(database, clock)
        self._rolled_retention = RetentionOfProjects(database[indexes.PROJECTS], clock)
        self._newest = newest_of(database)
        self._sources = RollupSources(self._newest)
        self._settling = SettlingMarks()
        self._trees = TreeRoller(self._newest, clock, self._sources)
        self._last_project = ObjectId("0" * 24)

    async def roll_up(self, *, project_id: str | None = None, max_minutes: int = 60) -> RollUpStep:
        """See `profile_store.contracts.Maintainer.roll_up`."""
        if project_id is not None and not ObjectId.is_valid(project_id):
            return RollUpStep()
        until = time.monotonic() + _STEP_SECONDS
        minutes = waiting = settling = put_off = 0
        trees: list[Mark] = []
        failures: list[RollUpFailure] = []
        with unavailable_on_failure("roll up"):
            for project in await self._projects_with_marks(project_id):
                ready, unsettled = await self._listed_marks(project, MINUTES)
                ready_trees, unsettled_trees = await self._listed_marks(project, TREES)
                trees += ready_trees
                settling += len(unsettled) + len(unsettled_trees)
                put_off += sum(self._settling.is_put_off(key) for key, _ in unsettled + unsettled_trees)
                some: Sequence[Mark] = ()
                if minutes < max_minutes and time.monotonic() < until:
                    some = _of_one_hour(ready)[: min(_MINUTES_PER_PROJECT, max_minutes - minutes)]
                if some:
                    # Before the work: a project that fails is not the first one of the next step.
                    self._last_project = project
                    hour = floor_to(some[0][0].start, HOUR)
                    with _others_go_on(project, f"the hour {_time(hour)}", failures):
                        minutes += await self._roll_hour_of(project, some, until, failures)
                waiting += len(ready) - len(some)
            due = [mark for mark in trees if self._trees.is_due(mark[0])]
            settling += len(trees) - len(due)
            waiting += len(due)
            # Long work, so one hour at a time, and only when no minute waits.
            merged_hours = 0
            if due and waiting == len(due):
                mark = min(due, key=lambda mark: self._trees.merged_at(mark[0]))
                with _others_go_on(mark[0].project_id, f"the call trees of {_time(mark[0].start)}", failures):
                    await self._roll_trees(mark)
                    merged_hours = 1
        return RollUpStep(
            minutes=minutes,
            trees=merged_hours,
            waiting=waiting - merged_hours,
            settling=settling,
            put_off=put_off,
            failures=tuple(failures),
        )

    async def request_roll_up(self, project_id: str, start: datetime, end: datetime) -> int:
        """See `profile_store.contracts.Maintainer.request_roll_up`."""
        if not ObjectId.is_valid(project_id):
            return 0
        project = ObjectId(project_id)
        window = Window(floor_to(start, MINUTE), ceil_to(end, MINUTE))
        with unavailable_on_failure("mark minutes for rolling up"), pymongo.timeout(_MINUTE_LIMIT_SECONDS):
            minutes = {minute async for minute in self._minutes_with_records(project, window)}
            within = {"project_id": project, "start": {"$gte": window.start, "$lt": window.end}}
            async for stored in self._newest[indexes.ROLLUP_MINUTES].find(within, {"start": True}):
                minutes.add(stored["start"])
            keys = [MarkKey(project, MINUTES, minute) for minute in minutes]
            keys += [MarkKey(project, TREES, hour) for hour in {floor_to(minute, HOUR) for minute in minutes}]
            await set_marks(self._newest[indexes.ROLLUP_MARKS], keys)
        return len(minutes)

    async def request_missing_roll_ups(self) -> int:
        """See `profile_store.contracts.Maintainer.request_missing_roll_ups`."""
        requested = 0
        with unavailable_on_failure("look for minutes without rollups"):
            projects = await self._newest[indexes.PROJECTS].find({}, {"_id": True}).to_list()
            for project in projects:
                if window := await self._never_rolled_up(project["_id"]):
                    requested += await self.request_roll_up(str(project["_id"]), *window)
        return requested

    async def _never_rolled_up(self, project: ObjectId) -> Window | None:
        """From the first record to the first minute that has a rollup; None when that is the same minute."""
        now = self._clock()
        retention = await self._retention_of(project) or timedelta()
        oldest = now - retention + _BEFORE_RETENTION_ENDS
        earliest = {"sort": [("timestamp", ASCENDING)], "hint": indexes.RECENT}
        first_record = await self._newest[indexes.RECORDS].find_one(
            {"project_id": project, "timestamp": {"$gte": oldest}}, {"timestamp": True}, **earliest
        )
        if first_record is None:
            return None
        first_minute = await self._newest[indexes.ROLLUP_MINUTES].find_one(
            {"project_id": project, "start": {"$gte": floor_to(oldest, MINUTE)}},
            {"start": True},
            sort=[("start", ASCENDING)],
        )
        window = Window(first_record["timestamp"], now if first_minute is None else first_minute["start"])
        return window if window.start < window.end else None

    async def _minutes_with_records(self, project: ObjectId, window: Window) -> AsyncIterator[datetime]:
        cursor = await self._newest[indexes.RECORDS].aggregate(
            [
                {
                    "$match": {
                        "project_id": project,
                        "timestamp": {"$gte": window.start, "$lt": window.end},
                    }
                },
                {"$group": {"_id": {"$dateTrunc": {"date": "$timestamp", "unit": "minute"}}}},
            ],
            allowDiskUse=True,
            hint=indexes.RECENT,
        )
        async for group in cursor:
            yield group["_id"]

    async def _projects_with_marks(self, project_id: str | None) -> Sequence[ObjectId]:
        """Each once, beginning after the one that had work done last, so that none waits for another."""
        if project_id is not None:
            return [ObjectId(project_id)]
        # One question for all of them: on a sharded cluster it goes to every shard.
        projects = sorted(await self._newest[indexes.ROLLUP_MARKS].distinct("project_id"))
        first = bisect_right(projects, self._last_project)
        return projects[first:] + projects[:first]

    async def _listed_marks(self, project: ObjectId, kind: str) -> tuple[list[Mark], list[Mark]]:
        """The newest marks: those that are settled, and those that are not."""
        found = await (
            self._newest[indexes.ROLLUP_MARKS]
            .find({"project_id": project, "kind": kind})
            .sort("start", DESCENDING)
            .limit(_MARKS_LISTED)
            .to_list()
        )
        marks = [(MarkKey(project, mark["kind"], mark["start"]), mark["value"]) for mark in found]
        ready: list[Mark] = []
        unsettled: list[Mark] = []
        for mark in marks:
            (ready if self._settling.is_settled(*mark) else unsettled).append(mark)
        return ready, unsettled

    async def _roll_hour_of(
        self, project: ObjectId, marks: Sequence[Mark], until: float, failures: list[RollUpFailure]
    ) -> int:
        """Roll minutes of one hour up, then the hour; then delete the marks of those that were written.

        Returns how many did not fail. After one that fails the others go on, but begin only before `until`:
        each may take as long as the one that failed.
        """
        now = self._clock()
        hour = floor_to(marks[0][0].start, HOUR)
        retention = await self._retention_of(project)
        stored = await self._newest[indexes.ROLLUP_HOURS].find_one(
            {"project_id": project, "start": hour}, {"sources_until": True}
        )
        if retention is None or not may_be_computed(stored, now):
            await self._delete_marks(marks)
            return len(marks)
        oldest = now - retention + _BEFORE_RETENTION_ENDS
        done: list[Mark] = [mark for mark in marks if mark[0].start < oldest]
        worked = len(done)
        for mark in marks:
            if mark[0].start < oldest:
                continue
            if failures and time.monotonic() >= until:
                break
            what = f"the minute {_time(mark[0].start)}"
            with _others_go_on(project, what, failures), self._put_off_on_failure([mark]):
                if await self._roll_minute(mark[0], retention):
                    done.append(mark)
                worked += 1
        if done:
            with self._put_off_on_failure(marks):
                rolled = await self._roll_hour(project, hour, retention)
            if rolled:
                await self._delete_marks(done)
        return worked

    async def _roll_minute(self, key: MarkKey, retention: timedelta) -> bool:
        collection = self._newest[indexes.ROLLUP_MINUTES]
        identity: Document = {"project_id": key.project_id, "start": key.start}
        stored = await collection.find_one(identity, {"revision": True, "sources_until": True, "count": True})
        rolled = await self._sources.requests(
            key.project_id, Window(key.start, key.start + MINUTE), _MINUTE_LIMIT_SECONDS
        )
        bucket = rolled.bucket
        # Nobody deletes single records, so with fewer than before the others have expired.
        if bucket.total.count <= 0 if stored is None else bucket.total.count < stored["count"]:
            return True
        times: Document = {
            "computed_at": self._clock(),
            **expiry_fields(indexes.ROLLUP_MINUTES, key.start, rolled.earliest_expiry, retention),
        }
        document = await asyncio.to_thread(bucket_document, bucket)
        if not await replace_if_unchanged(
            collection, identity, stored["revision"] if stored else None, document | times
        ):
            return False
        if bucket.total.profiles:
            hour = MarkKey(key.project_id, TREES, floor_to(key.start, HOUR))
            await set_marks(self._newest[indexes.ROLLUP_MARKS], [hour])
        return True

    async def _roll_hour(self, project: ObjectId, hour: datetime, retention: timedelta) -> bool:
        collection = self._newest[indexes.ROLLUP_HOURS]
        identity: Document = {"project_id": project, "start": hour}
        stored = await collection.find_one(identity, {"revision": True})
        minutes = await (
            self._newest[indexes.ROLLUP_MINUTES]
            .find({"project_id": project, "start": {"$gte": hour, "$lt": hour + HOUR}})
            .sort("start", ASCENDING)
            .to_list()
        )
        if stored is None and not minutes:
            return True
        expiries = [
            Expiry(minute["sources_until"], minute.get("retention_days", retention.days))
            for minute in minutes
            if minute["sources_until"]
        ]
        bucket = await asyncio.to_thread(_merged_minutes, minutes)
        await self._note_versions(project, bucket)
        times: Document = {
            "computed_at": self._clock(),
            **expiry_fields(indexes.ROLLUP_HOURS, hour, min(expiries, default=None), retention),
        }
        document = await asyncio.to_thread(bucket_document, bucket)
        return await replace_if_unchanged(
            collection, identity, stored["revision"] if stored else None, document | times
        )

    async def _roll_trees(self, mark: Mark) -> None:
        with self._put_off_on_failure([mark]):
            done = await self._trees.roll(mark[0], await self._retention_of(mark[0].project_id))
        if done:
            await self._delete_marks([mark])

    @contextmanager
    def _put_off_on_failure(self, marks: Sequence[Mark]) -> Generator[None]:
        """What cannot be computed now must not be the first thing that each further step tries."""
        try:
            yield
        except Exception:
            for key, value in marks:
                self._settling.put_off(key, value)
            raise

    async def _note_versions(self, project: ObjectId, bucket: Bucket) -> None:
        """The earliest and latest request of each version ever told, so that repeats change nothing."""
        seen: dict[str, list[int]] = defaultdict(list)
        for key, measures in bucket.groups.items():
            if key.version:
                seen[key.version] += [measures.first_ms, measures.last_ms]
        updates: list[UpdateOne] = []
        for version, times in sorted(seen.items()):
            first, last = [
                datetime.fromtimestamp(time_ms / 1_000, UTC) for time_ms in (min(times), max(times))
            ]
            updates.append(
                UpdateOne(
                    {"project_id": project, "version": version},
                    {
                        "$min": {"first_seen": first},
                        "$max": {"last_seen": last, "expires_at": last + VERSIONS_KEPT},
                    },
                    upsert=True,
                )
            )
        await upsert_all(self._newest[indexes.ROLLUP_VERSIONS], updates)

    async def _retention_of(self, project: ObjectId) -> timedelta | None:
        """None when the project is gone: then nothing of it is made again."""
        known = await self._newest[indexes.PROJECTS].find_one({"_id": project}, {"_id": True})
        if known is None:
            return None
        return timedelta(days=(await self._rolled_retention.days([project]))[project])

    async def _delete_marks(self, marks: Sequence[Mark]) -> None:
        """Only those that still have the value that was seen before their minute was read."""
        if marks:
            deletions = [DeleteOne({**key.as_filter(), "value": value}) for key, value in marks]
            await self._newest[indexes.ROLLUP_MARKS].bulk_write(deletions, ordered=False)
        for key, _ in marks:
            self._settling.forget(key)


@contextmanager
def _others_go_on(project: ObjectId, what: str, failures: list[RollUpFailure]) -> Generator[None]:
    """Keep a failure for whoever called the step."""
    try:
        with unavailable_on_failure(f"roll up {what} of project {project}"):
            yield
    except Exception as error:
        failures.append(RollUpFailure(what, str(project), error))


def _time(start: datetime) -> str:
    return f"{start:%Y-%m-%dT%H:%M}"


def _of_one_hour(marks: Sequence[Mark]) -> list[Mark]:
    """Of marks, newest first, those of the newest hour."""
    if not marks:
        return []
    newest = floor_to(marks[0][0].start, HOUR)
    return [mark for mark in marks if floor_to(mark[0].start, HOUR) == newest]


def _merged_minutes(minutes: Sequence[Document]) -> Bucket:
    return merged(readable_buckets(minutes))
