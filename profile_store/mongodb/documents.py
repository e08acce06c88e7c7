"""The shape of every document, and the way to it and back. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from bson import ObjectId

from profile_store.model import (
    HotFunctionFacts,
    IncomingChildSpans,
    IncomingProfile,
    ProfileFacts,
    Project,
    ProjectKey,
    Record,
)
from profile_store.mongodb.attributes import pack, unpack
from profile_store.mongodb.client import Document
from profile_store.mongodb.compression import compress, decompress
from profile_store.project_keys import key_hash, key_prefix
from profile_store.request_facts import http, process

TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8

_CHUNK_HASH_BYTES = 16
MAX_CHUNK_OTLP_BYTES = 64 * 1024 * 1024

LIST_PROJECTION = {
    "packed": False,
    "facts": False,
    "expires_at": False,
    "retention_days": False,
    "request_info": False,
    "response_info": False,
}
"""What a list of records leaves out."""


object_id = lru_cache(maxsize=1_024)(ObjectId)
"""The id of a project. Raises InvalidId when the text is none."""


def record_key(trace_id: bytes, span_id: bytes) -> bytes:
    """24 bytes, the `_id` of a record and of its profile.

    Raises:
        ValueError: an id of another length. BSON sorts binaries by length first, so mixed lengths break
        trace ranges.
    """
    if len(trace_id) != TRACE_ID_BYTES or len(span_id) != SPAN_ID_BYTES:
        raise ValueError(f"trace and span id have {len(trace_id)} and {len(span_id)} bytes, not 16 and 8")
    return trace_id + span_id


def trace_range(trace_id: bytes, *, suffix_bytes: int) -> Document:
    """A filter on `_id` for everything of one trace in a collection whose keys end with `suffix_bytes`."""
    return {
        "$gte": trace_id + b"\x00" * suffix_bytes,
        "$lte": trace_id + b"\xff" * suffix_bytes,
    }


RECORD_SUFFIX_BYTES = SPAN_ID_BYTES
CHUNK_SUFFIX_BYTES = _CHUNK_HASH_BYTES


def record_document(record: Record, *, created_at: datetime, expiry: Document) -> Document:
    """A record under the field names of the API contract; free-form attributes packed beside them.

    Here and below `expiry` holds the fields that `retention.expiry` gives.

    Raises:
        ValueError: wrong id lengths, or attributes that cannot be packed.
    """
    parent = record.parent_span_id
    return {
        "_id": record_key(record.trace_id, record.span_id),
        "project_id": object_id(record.project_id),
        "trace_id": record.trace_id.hex(),
        "span_id": record.span_id.hex(),
        "parent_span_id": None if parent is None else parent.hex(),
        "endpoint": record.endpoint,
        "path": record.path,
        "method": record.method,
        "status_code": record.status_code,
        "failed": record.failed,
        "duration": record.duration,
        "timestamp": record.timestamp,
        "start_time_unix_nano": record.start_time_unix_nano,
        "version": record.version,
        "environment": record.environment,
        "service": record.service,
        **profile_fields(record.profile, record.hot_functions, record.facts),
        **_readable_facts(record),
        "packed": pack(record.attributes, record.resource, record.events),
        "created_at": created_at,
        **expiry,
    }


def _readable_facts(record: Record) -> Document:
    """For whoever looks into the database: what the packed attributes say, under the names of the API.

    Nothing in here is read back, and no name in here comes from a sender.
    """
    attributes = record.attributes
    return {
        "request_info": {
            "user_agent": http.user_agent(attributes),
            "remote_ip": http.remote_ip(attributes),
            "request_size": http.request_size(attributes),
        },
        "response_info": {
            "response_size": http.response_size(attributes),
            "content_type": http.content_type(attributes),
        },
        "server_info": {"hostname": process.hostname(record), "pid": process.pid(record)},
    }


def record_from_document(document: Document) -> Record:
    """The record again; without attributes, resource and events when `packed` was left out."""
    parent = document["parent_span_id"]
    profile = document["profile"]
    record = Record(
        project_id=str(document["project_id"]),
        trace_id=bytes.fromhex(document["trace_id"]),
        span_id=bytes.fromhex(document["span_id"]),
        parent_span_id=None if parent is None else bytes.fromhex(parent),
        endpoint=document["endpoint"],
        method=document["method"],
        path=document["path"],
        status_code=document["status_code"],
        failed=document["failed"],
        duration=document["duration"],
        timestamp=_with_microseconds(document["timestamp"], document["start_time_unix_nano"]),
        start_time_unix_nano=document["start_time_unix_nano"],
        version=document["version"],
        environment=document["environment"],
        service=document["service"],
        profile=None if profile is None else ProfileFacts(**profile),
        hot_functions=[HotFunctionFacts(**function) for function in document["hot_functions"]],
        facts=document.get("facts", ""),
        created_at=document["created_at"],
    )
    if "packed" not in document:
        return record
    attributes, resource, events = unpack(document["packed"])
    return replace(record, attributes=attributes, resource=resource, events=events)


def _with_microseconds(date: datetime, unix_nano: int) -> datetime:
    """BSON dates have milliseconds; the rest of the microseconds comes from the span's own nanoseconds."""
    return date + timedelta(microseconds=unix_nano // 1_000 % 1_000)


def profile_document(record: Record, payload: bytes, *, expiry: Document) -> Document:
    """A call tree as it came; it is compressed already."""
    return {
        "_id": record_key(record.trace_id, record.span_id),
        "project_id": object_id(record.project_id),
        "payload": payload,
        **expiry,
    }


def lone_profile_document(item: IncomingProfile, *, expiry: Document) -> Document:
    """A call tree that came without its span, with what the span's record will show of it."""
    return {
        "_id": record_key(item.trace_id, item.span_id),
        "project_id": object_id(item.project_id),
        "payload": item.payload,
        "for_record": profile_fields(item.profile, item.hot_functions, item.facts),
        **expiry,
    }


def profile_fields(
    profile: ProfileFacts | None, hot_functions: Iterable[HotFunctionFacts], facts: str
) -> Document:
    """The part of a record that its profile decides."""
    return {
        "has_profile": profile is not None,
        "profile": None if profile is None else asdict(profile),
        "hot_functions": [asdict(function) for function in hot_functions],
        "facts": facts,
    }


def child_spans_document(chunk: IncomingChildSpans, *, expiry: Document) -> Document:
    """The child spans of one trace that came together. The same spans again have the same `_id`.

    Raises:
        ValueError: wrong id lengths, or more than `MAX_CHUNK_OTLP_BYTES`.
    """
    if len(chunk.trace_id) != TRACE_ID_BYTES:
        raise ValueError(f"trace id has {len(chunk.trace_id)} bytes, not {TRACE_ID_BYTES}")
    if len(chunk.otlp) > MAX_CHUNK_OTLP_BYTES:
        raise ValueError(f"child spans need {len(chunk.otlp)} bytes, more than {MAX_CHUNK_OTLP_BYTES}")
    project_id = object_id(chunk.project_id)
    digest = hashlib.blake2b(
        project_id.binary + b"".join(sorted(set(chunk.span_ids))), digest_size=_CHUNK_HASH_BYTES
    ).digest()
    return {
        "_id": chunk.trace_id + digest,
        "project_id": project_id,
        "timestamp": chunk.timestamp,
        "span_count": len(chunk.span_ids),
        "otlp": compress(chunk.otlp),
        **expiry,
    }


def otlp_of(document: Document) -> bytes:
    """The OTLP bytes of a chunk.

    Raises:
        ValueError: damaged, or larger than `MAX_CHUNK_OTLP_BYTES`.
    """
    return decompress(document["otlp"], at_most=MAX_CHUNK_OTLP_BYTES)


def project_document(project: Project, keys: Iterable[Document]) -> Document:
    """Everything but the `_id`, which the caller sets. `keys` are those of `key_document`."""
    return {
        "name": project.name,
        "keys": list(keys),
        "description": project.description,
        "framework": project.framework,
        "base_url": project.base_url,
        "status": project.status,
        "config": dict(project.config),
        "created_at": project.created_at,
        "updated_at": project.updated_at,
        "last_activity": project.last_activity,
    }


def key_document(secret: str, *, created_at: datetime) -> Document:
    """What is kept of a key."""
    return {
        "hash": key_hash(secret),
        "prefix": key_prefix(secret),
        "created_at": created_at,
        "expires_at": None,
    }


def key_from_document(document: Document) -> ProjectKey:
    """Without its hash, which leaves the database as little as the key."""
    return ProjectKey(
        prefix=document["prefix"], created_at=document["created_at"], expires_at=document["expires_at"]
    )


def is_valid_key(document: Document, now: datetime) -> bool:
    """Whether a key has not ended."""
    return document["expires_at"] is None or now < document["expires_at"]


_PROJECT_FIELDS = (
    *("name", "description", "framework", "base_url", "status", "config"),
    *("created_at", "updated_at", "last_activity"),
)


def project_from_document(document: Document, now: datetime) -> Project:
    """The project with the keys that are valid now."""
    project_id = str(document["_id"])
    values: dict[str, Any] = {name: document[name] for name in _PROJECT_FIELDS}
    keys = [key_from_document(key) for key in document.get("keys", ()) if is_valid_key(key, now)]
    return Project(id=project_id, project_key=project_id, keys=keys, **values)
