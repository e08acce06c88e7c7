"""The API behind its guards over a real MongoDB in this process, driven from plain functions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.applications import Starlette
from starlette.routing import Mount

from analysis_api.app import create_app
from analysis_api.errors import error_handlers
from analysis_api.guards import guarded
from analysis_api.health import health_routes
from analysis_api.settings import ApiSettings
from otel_pyinstrument.call_tree import CallTree, encode
from profile_store import StoreSettings, open_store
from profile_store.contracts import Store
from profile_store.model import (
    HotFunctionFacts,
    IncomingBatch,
    IncomingRecord,
    ProfileFacts,
    Project,
    Record,
)


@dataclass
class Api:
    """A client of the server, and the store behind it. Everything runs on the loop of `portal`."""

    portal: BlockingPortal
    store: Store
    client: httpx2.AsyncClient
    sent: int = field(default=0)

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return self.run(partial(self.client.request, method, path, **options))

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx2.Response:
        return self.request("POST", path, **options)

    def run(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        return self.portal.call(call, *arguments)

    def project(self, name: str = "shop") -> Project:
        return self.run(self.store.create_project, name)

    def store_record(self, project: Project, *, tree: CallTree | None = None, **changes: Any) -> Record:
        """Store one request; each further one starts a second later and takes a tenth of a second longer."""
        self.sent += 1
        record = a_record(project, self.sent, tree, **changes)
        payload = None if tree is None else encode(tree, max_bytes=8 * 1024 * 1024).payload
        batch = IncomingBatch(records=[IncomingRecord(record=record, payload=payload)])
        result = self.run(self.store.write, batch)
        assert not result.refusals
        return record


def a_record(project: Project, number: int, tree: CallTree | None, **changes: Any) -> Record:
    # Recent, so that the last 24 hours hold it.
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1) + timedelta(seconds=number)
    values: dict[str, Any] = {
        "project_id": project.id,
        "trace_id": number.to_bytes(16),
        "span_id": number.to_bytes(8),
        "parent_span_id": None,
        "endpoint": "GET /orders",
        "method": "GET",
        "path": "/orders",
        "status_code": 200,
        "failed": False,
        "duration": number / 10,
        "timestamp": start,
        "start_time_unix_nano": int(start.timestamp()) * 1_000_000_000,
        "version": "1.0",
        "environment": "production",
    }
    if tree is not None:
        values["profile"] = ProfileFacts(
            sample_count=tree.sample_count,
            node_count=tree.node_count,
            interval=0.01,
            duration=tree.duration_us / 1e6,
            cpu_time=0.25,
            reason="slow",
            truncated=False,
            interrupted=False,
        )
        values["hot_functions"] = [
            HotFunctionFacts(
                function="load_orders",
                module="shop.orders",
                file="shop/orders.py",
                line=41,
                self_duration=0.65,
                duration=0.65,
                share=0.65,
            )
        ]
    return Record(**{**values, **changes})


@asynccontextmanager
async def running(settings: StoreSettings) -> AsyncGenerator[tuple[Store, httpx2.AsyncClient]]:
    async with open_store(settings) as store:
        # As all_in_one.server mounts it, without the pages.
        routes = [*health_routes(store), Mount("/api", routes=[Mount("/v1", create_app(store))])]
        app = Starlette(routes=routes, exception_handlers=error_handlers())
        transport = httpx2.ASGITransport(app=guarded(app, ApiSettings()))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            yield store, client


@pytest.fixture
def api(mongodb_url: str, mongodb_database: str) -> Iterator[Api]:
    settings = StoreSettings(mongodb_url=mongodb_url, mongodb_database=mongodb_database)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running(settings)) as (store, client),
    ):
        yield Api(portal, store, client)
