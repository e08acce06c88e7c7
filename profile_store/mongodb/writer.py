"""The writing half of the contract, for records, profiles and child spans."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

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
    object_id,
    profile_document,
    record_document,
)
from profile_store.mongodb.errors import describe, unavailable_on_failure
from profile_store.mongodb.inserts import Inserted, Prepared, insert, prepare
from profile_store.mongodb.joining import ProfileJoiner
from profile_store.mongodb.name_lists import NameLists
from profile_store.mongodb.retention import RetentionOfProjects, expiry
from profile_store.mongodb.rollup_marks import MarkWriter, minute_marks

_logger = logging.getLogger(__name__)

# `last_activity` of a project is a display value; once in this time and process is enough.
_ACTIVITY_EVERY = timedelta(seconds=10)
_ACTIVITY_LIMIT_SECONDS = 1.0  # the sender waits meanwhile, for an answer that is certain already

_TURN_SECONDS = 0.002  # of making documents; then other requests have their turn

Item = TypeVar("Item")
Result = TypeVar("Result")


class RecordWriter(DatabaseUser):
    """Profiles and child spans first, then records: whoever sees a record finds what belongs to it."""

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
            outcomes = await asyncio.gather(
                self._insert_profiles(encoder, batch),
                self._insert_child_spans(encoder, batch),
                _in_turns(encoder.record, (item.record for item in batch.records)),
                return_exceptions=True,  # nothing of this write goes on when it has failed
            )
            profiles, chunks, documents = _given(outcomes[0]), _given(outcomes[1]), _given(outcomes[2])
            if profiles.refused:
                whole = (_without_lost_profile(item, profiles.refused) for item in batch.records)
                documents = await _in_turns(encoder.record, whole)
            records = await insert(database[indexes.RECORDS], "record", documents)
            lost = profiles.refused.keys() | records.refused.keys()
            joined = await self._joiner.join(batch, lost=lost)
            await self._mark_for_rollups(batch, lost=records.refused.keys())
        if records.new:
            await self._note_activity({item.record.project_id for item in batch.records})
        refused = [*profiles.refused.values(), *chunks.refused.values(), *records.refused.values()]
        return WriteResult(
            new_records=records.new, new_profiles=profiles.new, refusals=refused, joined=joined
        )

    async def _insert_profiles(self, encoder: _Encoder, batch: IncomingBatch) -> Inserted:
        documents = await _in_turns(
            encoder.profile, (item for item in batch.records if item.payload is not None)
        )
        documents += await _in_turns(encoder.lone_profile, batch.profiles)
        return await insert(self._database[indexes.PROFILES], "profile", documents)

    async def _insert_child_spans(self, encoder: _Encoder, batch: IncomingBatch) -> Inserted:
        documents = await _in_turns(encoder.child_spans, batch.child_spans)
        return await insert(self._database[indexes.CHILD_SPANS], "child_spans", documents)

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
                {"project_id": {"$in": [ObjectId(project) for project in projects]}, "_id": {"$in": keys}},
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

    def profile(self, item: IncomingRecord) -> Prepared:
        # The span itself is not lost with its profile.
        return prepare("profile", _key(item.record), (), partial(self._profile_document, item))

    def lone_profile(self, item: IncomingProfile) -> Prepared:
        key = item.trace_id + item.span_id
        return prepare("profile", key, (item.span_id,), partial(self._lone_profile_document, item))

    def record(self, record: Record) -> Prepared:
        return prepare("record", _key(record), (record.span_id,), partial(self._record_document, record))

    def child_spans(self, chunk: IncomingChildSpans) -> Prepared:
        key = chunk.trace_id + b"".join(chunk.span_ids)
        return prepare("child_spans", key, chunk.span_ids, partial(self._child_spans_document, chunk))

    def _profile_document(self, item: IncomingRecord) -> dict[str, object]:
        return profile_document(item.record, item.payload or b"", expiry=self._expiry(item.record))

    def _lone_profile_document(self, item: IncomingProfile) -> dict[str, object]:
        return lone_profile_document(item, expiry=self._expiry(item))

    def _record_document(self, record: Record) -> dict[str, object]:
        return record_document(record, created_at=self._arrival, expiry=self._expiry(record))

    def _child_spans_document(self, chunk: IncomingChildSpans) -> dict[str, object]:
        return child_spans_document(chunk, expiry=self._expiry(chunk))

    def _expiry(self, item: Record | IncomingChildSpans | IncomingProfile) -> Document:
        days = self._retention_days.get(object_id(item.project_id), DEFAULT_RETENTION_DAYS)
        return expiry(item.timestamp, self._arrival, days)


async def _in_turns(build: Callable[[Item], Prepared], items: Iterable[Item]) -> list[Prepared]:
    prepared: list[Prepared] = []
    until = time.perf_counter() + _TURN_SECONDS
    for item in items:
        prepared.append(build(item))
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + _TURN_SECONDS
    return prepared


def _given(result: Result | BaseException) -> Result:
    if isinstance(result, BaseException):
        raise result
    return result


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
