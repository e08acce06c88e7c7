"""The pages over a real MongoDB in this process, driven from plain functions."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from otel_pyinstrument.call_tree import CallTree, CallTreeBuilder, Frame, encode
from profile_store import StoreSettings, open_store
from profile_store.contracts import Store
from profile_store.hot_functions import hot_function_facts
from profile_store.model import IncomingBatch, IncomingRecord, ProfileFacts, Project, Record
from web.app import create_app
from web.settings import WebSettings

ASSET_NAMES = ["app.js", "app.css", "record_page.js", "icons.svg", "favicon.svg", "third-party-licences.txt"]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._address: str | None = None
        self._label = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._address, self._label = dict(attrs).get("href") or "", ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._address is not None:
            self.links.append((" ".join(self._label.split()), self._address))
            self._address = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._address is not None:
            self._label += data


@dataclass
class Answer:
    """A response and what a reader sees of it."""

    response: httpx2.Response

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def html(self) -> str:
        return self.response.text

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._parsed.text).split())

    @property
    def links(self) -> dict[str, str]:
        """Label -> address."""
        return dict(self._parsed.links)

    @property
    def _parsed(self) -> _Links:
        parser = _Links()
        parser.feed(self.response.text)
        return parser


@dataclass
class Pages:
    """A browser without script, and the store behind the pages. Everything runs on the loop of `portal`."""

    portal: BlockingPortal
    store: Store
    client: httpx2.AsyncClient

    def get(self, path: str, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Answer(self.run(partial(self.client.get, path, headers=named)))

    def run(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        return self.portal.call(call, *arguments)

    def project(self, name: str = "shop") -> Project:
        return self.run(self.store.create_project, name)

    def add(self, project: Project, *, tree: CallTree | None = None, **changes: Any) -> Record:
        """Store a record as the receiver would."""
        values: dict[str, Any] = {
            "project_id": project.id,
            "trace_id": secrets.token_bytes(16),
            "span_id": secrets.token_bytes(8),
            "parent_span_id": None,
            "endpoint": "GET /orders",
            "method": "GET",
            "path": "/orders",
            "status_code": 200,
            "failed": False,
            "duration": 0.25,
            "timestamp": datetime.now(UTC),
            "start_time_unix_nano": 1_700_000_000_000_000_000,
        } | changes
        if tree:
            values |= {"profile": facts_of(tree), "hot_functions": hot_function_facts(tree)}
        incoming = IncomingRecord(record=Record(**values), payload=encode(tree).payload if tree else None)
        result = self.run(self.store.write, IncomingBatch(records=[incoming]))
        assert not result.refusals
        return incoming.record


def facts_of(tree: CallTree) -> ProfileFacts:
    return ProfileFacts(
        sample_count=tree.sample_count,
        node_count=tree.node_count,
        interval=0.01,
        duration=tree.duration_us / 1e6,
        cpu_time=tree.duration_us / 4e6,
        reason="rate",
        truncated=False,
        interrupted=False,
    )


@pytest.fixture
def tree_of() -> Callable[..., CallTree]:
    """Builds a tree from `"a>b>c": seconds`; functions in capitals belong to libraries."""

    def tree_of(stacks: dict[str, float]) -> CallTree:
        builder = CallTreeBuilder()
        for stack, seconds in stacks.items():
            builder.add(stack.split(">"), seconds)
        return builder.build(lambda name: Frame(name, f"shop/{name}.py", 7, not name.isupper()))

    return tree_of


@pytest.fixture
def static_directory(tmp_path: Path) -> Path:
    """Stands for a finished build, so that these tests need neither node nor a network."""
    directory = tmp_path / "static"
    directory.mkdir()
    manifest = ", ".join(f'"{name}": "{name}"' for name in ASSET_NAMES)
    (directory / "manifest.json").write_text(f"{{{manifest}}}", "utf-8")
    (directory / "app.css").write_text("body {}", "utf-8")
    return directory


@pytest.fixture
def open_pages() -> Callable[..., Any]:
    """`async with open_pages(url, database, static_directory)` gives (store, client)."""

    @asynccontextmanager
    async def opened(
        url: str, database: str, static_directory: Path, *, raise_app_exceptions: bool = True
    ) -> AsyncGenerator[tuple[Store, httpx2.AsyncClient]]:
        async with open_store(StoreSettings(MONGODB_URL=url, MONGODB_DATABASE=database)) as store:
            app = create_app(store, WebSettings(static_directory=static_directory))
            transport = httpx2.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
            async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
                yield store, client

    return opened


@pytest.fixture
def pages(
    mongodb_url: str, mongodb_database: str, static_directory: Path, open_pages: Callable[..., Any]
) -> Iterator[Pages]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            open_pages(mongodb_url, mongodb_database, static_directory)
        ) as opened,
    ):
        yield Pages(portal, *opened)
