"""What the contract suite writes, and the store it writes to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode
from profile_store import StoreSettings, open_store
from profile_store.contracts import Store
from profile_store.model import IncomingRecord, ProfileFacts, Record


@pytest.fixture
async def store(mongodb_url: str, mongodb_database: str, anyio_backend: str) -> AsyncIterator[Store]:
    """An open store on an empty database of its own."""
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    async with open_store(settings) as opened:
        yield opened


@pytest.fixture
async def project_id(store: Store) -> str:
    return (await store.project_for_service("shop")).id


def make_record(project_id: str, **changes: Any) -> Record:
    """A plausible request that ended a moment ago."""
    start = datetime.now(UTC).replace(microsecond=123_000) - timedelta(seconds=2)
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
    values.setdefault("start_time_unix_nano", int(values["timestamp"].timestamp() * 1_000) * 1_000_000)
    return Record(**values)


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
    from dataclasses import replace

    return IncomingRecord(record=replace(record, profile=PROFILE), payload=make_payload())


@pytest.fixture
def make() -> SimpleNamespace:
    """Builders of what the receiver hands over."""
    return SimpleNamespace(record=make_record, profiled=profiled, payload=make_payload, profile=PROFILE)
