"""The reading half of the contract, for records."""

from __future__ import annotations

import asyncio
import logging

import pymongo
from bson import ObjectId, encode
from bson.errors import BSONError
from pymongo.errors import PyMongoError

from otel_pyinstrument.call_tree import CallTree, InvalidPayload, decode
from profile_store.model import ChildSpan, Page, Record, RecordDetail, RecordQuery
from profile_store.mongodb import indexes
from profile_store.mongodb.child_spans import decode_child_spans, descendants
from profile_store.mongodb.client import DatabaseUser, Document
from profile_store.mongodb.documents import (
    CHUNK_SUFFIX_BYTES,
    LIST_PROJECTION,
    RECORD_SUFFIX_BYTES,
    SPAN_ID_BYTES,
    TRACE_ID_BYTES,
    otlp_of,
    record_from_document,
    trace_range,
)
from profile_store.mongodb.errors import unavailable_on_failure

_logger = logging.getLogger(__name__)

TOTAL_LIMIT = 10_000
"""Up to here the total of a list is counted."""

MAX_CHILD_SPANS = 20_000
MAX_CHILD_SPAN_BYTES = 64 * 1024 * 1024
"""What one record page reads of its trace at most."""

_MAX_SKIP = 2**31

# A filter that no index serves makes the count read every record of the project; the page needs only 20.
_COUNT_SECONDS = 2.0

# Decoding 32 KiB of payload takes some milliseconds; longer work would stall every other request of this
# loop.
_DECODE_IN_THREAD_BYTES = 32 * 1024


class RecordReader(DatabaseUser):
    """Every query names the project, so on a sharded cluster it goes to the shards of that project."""

    async def records(self, query: RecordQuery) -> Page[Record]:
        """See `profile_store.contracts.Reader.records`."""
        if query.page < 1 or query.page_size < 1:
            raise ValueError(f"page={query.page}, page_size={query.page_size}: both count from 1")
        empty: Page[Record] = Page(items=(), page=query.page, page_size=query.page_size, total=0)
        filters = record_filter(query)
        if filters is None:
            return empty
        collection = self._database[indexes.RECORDS]
        field, direction = query.sort.removeprefix("-"), -1 if query.sort.startswith("-") else 1
        skip = (query.page - 1) * query.page_size
        with unavailable_on_failure("list records"):
            total = await self._count(filters)
            if (total is not None and total <= skip <= TOTAL_LIMIT) or skip > _MAX_SKIP:
                items: list[Document] = []
            else:
                items = await (
                    collection.find(filters, LIST_PROJECTION)
                    .sort([(field, direction), ("_id", direction)])
                    .skip(skip)
                    .limit(query.page_size)
                    .to_list()
                )
        return Page(
            items=[record_from_document(item) for item in items],
            page=query.page,
            page_size=query.page_size,
            total=skip + len(items) if total is None else min(total, TOTAL_LIMIT),
            total_is_exact=total is not None and total <= TOTAL_LIMIT,
        )

    async def _count(self, filters: Document) -> int | None:
        """How many records match, at most one more than `TOTAL_LIMIT`; None when counting takes too long."""
        try:
            with pymongo.timeout(_COUNT_SECONDS):
                return await self._database[indexes.RECORDS].count_documents(filters, limit=TOTAL_LIMIT + 1)
        except PyMongoError as error:
            if error.timeout:
                return None
            raise

    async def record(self, project_id: str, record_id: str) -> RecordDetail | None:
        """See `profile_store.contracts.Reader.record`."""
        key = _key_filter(project_id, record_id)
        if key is None:
            return None
        with unavailable_on_failure("read a record"):
            document = await self._database[indexes.RECORDS].find_one(key)
            if document is None:
                return None
            record = record_from_document(document)
            tree = None if record.profile is None else await self._read_call_tree(key)
            others = await self._other_records(record)
            spans = await self._child_spans(record)
        return RecordDetail(
            record=record,
            call_tree=tree,
            child_spans=await asyncio.to_thread(
                descendants, record.span_id, record.parent_span_id, spans, other_records=others
            ),
            child_spans_truncated=len(spans) >= MAX_CHILD_SPANS,
        )

    async def call_tree(self, project_id: str, record_id: str) -> CallTree | None:
        """See `profile_store.contracts.Reader.call_tree`."""
        key = _key_filter(project_id, record_id)
        if key is None:
            return None
        with unavailable_on_failure("read a call tree"):
            # A profile without its record was written by a batch that is not complete yet.
            if (
                await self._database[indexes.RECORDS].find_one({**key, "has_profile": True}, {"_id": True})
                is None
            ):
                return None
            return await self._read_call_tree(key)

    async def _read_call_tree(self, key: Document) -> CallTree | None:
        document = await self._database[indexes.PROFILES].find_one(key, {"payload": True})
        if document is None:
            return None
        payload: bytes = document["payload"]
        try:
            if len(payload) <= _DECODE_IN_THREAD_BYTES:
                return decode(payload)
            return await asyncio.to_thread(decode, payload)
        except InvalidPayload as error:
            _logger.warning("stored call tree %s is damaged: %s", key["_id"].hex(), error)
            return None

    async def _other_records(self, record: Record) -> set[bytes]:
        cursor = self._database[indexes.RECORDS].find(
            {
                "_id": trace_range(record.trace_id, suffix_bytes=RECORD_SUFFIX_BYTES),
                "project_id": ObjectId(record.project_id),
            },
            {"_id": True},
            limit=MAX_CHILD_SPANS,
        )
        return {document["_id"][TRACE_ID_BYTES:] async for document in cursor} - {record.span_id}

    async def _child_spans(self, record: Record) -> list[ChildSpan]:
        """All child spans of the record's trace in its project, each once, up to the limits."""
        found: dict[bytes, ChildSpan] = {}
        size = 0
        chunks = self._database[indexes.CHILD_SPANS].find(
            {
                "_id": trace_range(record.trace_id, suffix_bytes=CHUNK_SUFFIX_BYTES),
                "project_id": ObjectId(record.project_id),
            },
            {"otlp": True},
        )
        async for chunk in chunks:
            if len(chunk["otlp"]) <= _DECODE_IN_THREAD_BYTES:
                otlp_bytes, spans = _decode_chunk(chunk)
            else:
                otlp_bytes, spans = await asyncio.to_thread(_decode_chunk, chunk)
            for span in spans:
                found.setdefault(span.span_id, span)
            size += otlp_bytes
            if len(found) >= MAX_CHILD_SPANS or size > MAX_CHILD_SPAN_BYTES:
                break
        return list(found.values())[:MAX_CHILD_SPANS]


def _decode_chunk(chunk: Document) -> tuple[int, list[ChildSpan]]:
    """The size of a chunk's OTLP bytes, and its spans; nothing when it is damaged."""
    try:
        otlp = otlp_of(chunk)
    except ValueError as error:
        _logger.warning("trace %s: %s", chunk["_id"][:TRACE_ID_BYTES].hex(), error)
        return 0, []
    return len(otlp), list(decode_child_spans(otlp))


def record_filter(query: RecordQuery) -> Document | None:
    """The filter of a record list; None when nothing can match, such as a text that BSON cannot hold."""
    if not ObjectId.is_valid(query.project_id):
        return None
    filters: Document = {"project_id": ObjectId(query.project_id)}
    for name in ("endpoint", "method", "version", "environment"):
        if (value := getattr(query, name)) is not None:
            filters[name] = value
    match query.status:
        case None:
            pass
        case "ok" | "failed":
            filters["failed"] = query.status == "failed"
        case code:
            filters["status_code"] = code
    if query.min_duration is not None:
        filters["duration"] = {"$gte": query.min_duration}
    window = {"$gte": query.start_time, "$lt": query.end_time}
    if bounds := {operator: time for operator, time in window.items() if time is not None}:
        filters["timestamp"] = bounds
    if query.profiled is not None:
        filters["has_profile"] = query.profiled
    try:
        encode(filters)
    except (BSONError, ValueError, OverflowError):
        return None
    return filters


def _key_filter(project_id: str, record_id: str) -> Document | None:
    if not ObjectId.is_valid(project_id) or len(record_id) != 2 * (TRACE_ID_BYTES + SPAN_ID_BYTES):
        return None
    try:
        key = bytes.fromhex(record_id)
    except ValueError:
        return None
    if len(key) != TRACE_ID_BYTES + SPAN_ID_BYTES:
        return None
    return {"_id": key, "project_id": ObjectId(project_id)}
