"""What the contract suite writes, and the store it writes to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from pymongo import MongoClient
from pymongo.database import Database

from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode
from profile_store import StoreSettings, open_store
from profile_store.contracts import Store
from profile_store.embedded_mongodb import EmbeddedMongoDB, embedded_mongodb
from profile_store.model import IncomingChildSpans, IncomingRecord, ProfileFacts, Record


@pytest.fixture
async def store(mongodb_url: str, mongodb_database: str, anyio_backend: str) -> AsyncIterator[Store]:
    """An open store on an empty database of its own."""
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    async with open_store(settings) as opened:
        yield opened


@pytest.fixture
async def project_id(store: Store) -> str:
    return (await store.project_for_service("shop")).id


@pytest.fixture
def database(mongodb_url: str, mongodb_database: str) -> Iterator[Database[dict[str, Any]]]:
    """The store's database, seen from beside it."""
    with MongoClient[dict[str, Any]](mongodb_url, tz_aware=True, tzinfo=UTC) as client:
        yield client[mongodb_database]


@pytest.fixture
def documents(database: Database[dict[str, Any]]) -> Callable[[str], list[dict[str, Any]]]:
    return lambda collection: list(database[collection].find())


def make_record(project_id: str, **changes: Any) -> Record:
    """A plausible request that ended a moment ago."""
    start = datetime.now(UTC).replace(microsecond=123_456) - timedelta(seconds=2)
    values: dict[str, Any] = {
        "project_id": project_id,
        "trace_id": os.urandom(16),
        "span_id": os.urandom(8),
        "parent_span_id": None,
        "endpoint": "GET /orders/{id}",
        "method": "GET",
        "path": "/orders/17",
        "status_code": 200,
        "failed": False,
        "duration": 0.25,
        "timestamp": start,
        "version": "1.2.0",
        "environment": "production",
        "service": "shop",
    } | changes
    microseconds = (values["timestamp"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return Record(**{"start_time_unix_nano": microseconds * 1_000} | values)


PROFILE = ProfileFacts(
    sample_count=25,
    node_count=3,
    interval=0.01,
    duration=0.25,
    cpu_time=0.2,
    reason="rate",
    truncated=False,
    interrupted=False,
)


def make_payload(seconds: float = 0.25) -> bytes:
    builder = CallTreeBuilder()
    builder.add(["view", "query"], seconds)
    tree = builder.build(lambda name: Frame(name, "shop/views.py", 7, True))
    return encode(tree).payload


def profiled(record: Record) -> IncomingRecord:
    return IncomingRecord(record=replace(record, profile=PROFILE), payload=make_payload())


def make_span(
    trace_id: bytes,
    *,
    parent: bytes = b"",
    span_id: bytes | None = None,
    start: int = 1_000,
    attributes: dict[str, str] | None = None,
    **changes: Any,
) -> Span:
    values: dict[str, Any] = {
        "trace_id": trace_id,
        "span_id": span_id or os.urandom(8),
        "parent_span_id": parent,
        "name": "SELECT",
        "kind": Span.SPAN_KIND_CLIENT,
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + 500,
    } | changes
    span = Span(**values)
    for key, value in (attributes or {}).items():
        span.attributes.add(key=key).value.string_value = value
    return span


def make_chunk(project_id: str, spans: list[Span]) -> IncomingChildSpans:
    """The chunk that the receiver makes of child spans of one trace."""
    resource_spans = ResourceSpans()
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "opentelemetry.instrumentation.sqlite3"
    scope_spans.spans.extend(spans)
    return IncomingChildSpans(
        project_id=project_id,
        trace_id=spans[0].trace_id,
        span_ids=[span.span_id for span in spans],
        timestamp=datetime.now(UTC),
        otlp=resource_spans.SerializeToString(),
    )


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Builders of what the receiver hands over; `own_mongod` is a server that a test may stop and freeze."""

    def own_mongod() -> AbstractContextManager[EmbeddedMongoDB]:
        return embedded_mongodb(tmp_path_factory.mktemp("own"))

    return SimpleNamespace(
        record=make_record,
        profiled=profiled,
        payload=make_payload,
        profile=PROFILE,
        span=make_span,
        chunk=make_chunk,
        own_mongod=own_mongod,
    )
