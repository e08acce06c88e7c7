"""The writing half of the contract, for records, profiles and child spans."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pymongo
from bson import ObjectId
from pymongo.errors import PyMongoError

from profile_store.contracts import WriteResult
from profile_store.model import (
    DEFAULT_RETENTION_DAYS,
    IncomingBatch,
    IncomingChildSpans,
    IncomingProfile,
    IncomingRecord,
    Record,
)
from profile_store.mongodb import indexes
from profile_store.mongodb.client import Database, DatabaseUser, Document, newest
from profile_store.mongodb.documents import (
    child_spans_document,
    lone_profile_document,
    profile_document,
    record_document,
)
from profile_store.mongodb.errors import describe, unavailable_on_failure
from profile_store.mongodb.inserts import Prepared, insert, prepare
from profile_store.mongodb.joining import ProfileJoiner
from profile_store.mongodb.name_lists import NameLists
from profile_store.mongodb.retention import RetentionOfProjects, expiry
from profile_store.mongodb.rollup_marks import MarkWriter, minute_marks

_logger = logging.getLogger(__name__)

# `last_activity` of a project is a display value; once in this time and process is enough.
_ACTIVITY_EVERY = timedelta(seconds=10)
_ACTIVITY_LIMIT_SECONDS = 1.0  # the sender waits meanwhile, for an answer that is certain already

_DOCUMENTS_ON_THE_LOOP = 128


class RecordWriter(DatabaseUser):
    """Profiles first, then child spans, then records: whoever sees a record finds what belongs to it."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        super().__init__(database, clock)
        self._retention = RetentionOfProjects(database[indexes.PROJECTS], clock)
        self._joiner = ProfileJoiner(database)
        self._names = NameLists(database)
        self._marks = MarkWriter(database)
        self._activity_noted: dict[str, datetime] = {}

    async def write(self, batch: IncomingBatch) -> WriteResult:
        """See `profile_store.contracts.Writer.write`."""
        if not (batch.records or batch.child_spans or batch.profiles):
            return WriteResult(new_records=0, new_profiles=0, refusals=())
        batch = await self._names.bounded(batch, self._clock())
        database = self._database
        with unavailable_on_failure("store a batch"):
            encoder = _Encoder(self._clock(), await self._retention.days(_project_ids(batch)))
            prepare = _in_thread if _is_large(batch) else _here
            profiles = await insert(
                database[indexes.PROFILES],
                "profile",
                await prepare(encoder.profiles, batch.records, batch.profiles),
            )
            chunks = await insert(
                database[indexes.CHILD_SPANS],
                "child_spans",
                await prepare(encoder.all_child_spans, batch.child_spans),
            )
            records = await insert(
                database[indexes.RECORDS],
                "record",
                await prepare(encoder.records, batch.records, profiles.refused),
            )
            lost = profiles.refused.keys() | records.refused.keys()
            joined = await self._joiner.join(batch, lost=lost)
            await self._mark_for_rollups(batch, lost=records.refused.keys())
        if records.new:
            await self._note_activity({item.record.project_id for item in batch.records})
        refused = [*profiles.refused.values(), *chunks.refused.values(), *records.refused.values()]
        return WriteResult(
            new_records=records.new, new_profiles=profiles.new, refusals=refused, joined=joined
        )

    async def _mark_for_rollups(self, batch: IncomingBatch, *, lost: Container[bytes]) -> None:
        """Also for what was there before: whoever stored it may have died before it could set the mark.

        What was refused, named by `lost`, may have neither a project nor a time.
        """
        stored = [item.record for item in batch.records if _key(item.record) not in lost]
        requests = [(record.project_id, record.timestamp) for record in stored]
        if batch.profiles:
            keys = [item.trace_id + item.span_id for item in batch.profiles]
            projects = {item.project_id for item in batch.profiles if ObjectId.is_valid(item.project_id)}
            found = newest(self._database[indexes.RECORDS]).find(
                {"_id": {"$in": keys}, "project_id": {"$in": [ObjectId(project) for project in projects]}},
                {"project_id": True, "timestamp": True},
            )
            requests += [(str(record["project_id"]), record["timestamp"]) async for record in found]
        await self._marks.note(minute_marks(requests, self._clock()))

    async def _note_activity(self, project_ids: Iterable[str]) -> None:
        """Best effort: the batch is durable, so a failure here must not make the sender repeat it."""
        now = self._clock()
        due = [
            key
            for key in project_ids
            if self._activity_noted.get(key, now - _ACTIVITY_EVERY) <= now - _ACTIVITY_EVERY
        ]
        if not due:
            return
        # A plain dict of projects seen by this process; start anew before hostile numbers of them fill the
        # memory.
        if len(self._activity_noted) > 10_000:
            self._activity_noted.clear()
        self._activity_noted.update(dict.fromkeys(due, now))
        try:
            with pymongo.timeout(_ACTIVITY_LIMIT_SECONDS):
                await self._database[indexes.PROJECTS].update_many(
                    {"_id": {"$in": [ObjectId(key) for key in due if ObjectId.is_valid(key)]}},
                    {"$max": {"last_activity": now}},
                )
        except PyMongoError as error:
            _logger.debug("last_activity not noted: %s", describe(error))


class _Encoder:
    """Documents of one batch: what they share is when it came and how long its projects keep things."""

    def __init__(self, arrival: datetime, retention_days: Mapping[ObjectId, int]) -> None:
        self._arrival = arrival
        self._retention_days = retention_days

    def profiles(self, items: Iterable[IncomingRecord], lone: Iterable[IncomingProfile]) -> list[Prepared]:
        of_records = [self.profile(item.record, item.payload) for item in items if item.payload is not None]
        return of_records + [self.lone_profile(item) for item in lone]

    def records(self, items: Iterable[IncomingRecord], lost: Mapping[bytes, object]) -> list[Prepared]:
        return [self.record(_without_lost_profile(item, lost)) for item in items]

    def all_child_spans(self, chunks: Iterable[IncomingChildSpans]) -> list[Prepared]:
        return [self.child_spans(chunk) for chunk in chunks]

    def profile(self, record: Record, payload: bytes) -> Prepared:
        # The span itself is not lost with its profile.
        return prepare("profile", _key(record), (), partial(self._profile_document, record, payload))

    def lone_profile(self, item: IncomingProfile) -> Prepared:
        key = item.trace_id + item.span_id
        return prepare("profile", key, (item.span_id,), partial(self._lone_profile_document, item))

    def record(self, record: Record) -> Prepared:
        return prepare("record", _key(record), (record.span_id,), partial(self._record_document, record))

    def child_spans(self, chunk: IncomingChildSpans) -> Prepared:
        key = chunk.trace_id + b"".join(chunk.span_ids)
        return prepare("child_spans", key, chunk.span_ids, partial(self._child_spans_document, chunk))

    def _profile_document(self, record: Record, payload: bytes) -> dict[str, object]:
        return profile_document(record, payload, expiry=self._expiry(record))

    def _lone_profile_document(self, item: IncomingProfile) -> dict[str, object]:
        return lone_profile_document(item, expiry=self._expiry(item))

    def _record_document(self, record: Record) -> dict[str, object]:
        return record_document(record, created_at=self._arrival, expiry=self._expiry(record))

    def _child_spans_document(self, chunk: IncomingChildSpans) -> dict[str, object]:
        return child_spans_document(chunk, expiry=self._expiry(chunk))

    def _expiry(self, item: Record | IncomingChildSpans | IncomingProfile) -> Document:
        days = self._retention_days.get(ObjectId(item.project_id), DEFAULT_RETENTION_DAYS)
        return expiry(item.timestamp, self._arrival, days)


def _is_large(batch: IncomingBatch) -> bool:
    """Whether its documents take so long to make (about 50 us each) that other requests would notice."""
    return len(batch.records) + len(batch.child_spans) + len(batch.profiles) > _DOCUMENTS_ON_THE_LOOP


async def _in_thread(build: Callable[..., list[Prepared]], *arguments: object) -> list[Prepared]:
    return await asyncio.to_thread(build, *arguments)


async def _here(build: Callable[..., list[Prepared]], *arguments: object) -> list[Prepared]:
    return build(*arguments)


def _key(record: Record) -> bytes:
    return record.trace_id + record.span_id


def _without_lost_profile(item: IncomingRecord, refused: Mapping[bytes, object]) -> Record:
    """A record never promises a call tree that is not there."""
    if _key(item.record) in refused:
        return replace(item.record, profile=None, hot_functions=())
    return item.record


def _project_ids(batch: IncomingBatch) -> set[ObjectId]:
    named = {item.record.project_id for item in batch.records}
    named |= {item.project_id for item in (*batch.child_spans, *batch.profiles)}
    return {ObjectId(name) for name in named if ObjectId.is_valid(name)}
