"""A real server over a real MongoDB with seeded records, and a Chromium that reports everything odd."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from otel_pyinstrument.call_tree import ROOT, CallTree, CallTreeBuilder, Frame, encode
from profile_store import StoreSettings, open_store
from profile_store.contracts import Store
from profile_store.hot_functions import hot_function_facts
from profile_store.model import (
    IncomingBatch,
    IncomingChildSpans,
    IncomingRecord,
    ProfileFacts,
    Record,
    SpanEvent,
)
from web.app import create_app
from web.build_assets import AssetsBuildError, build

CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
STARTED = datetime(2026, 11, 21, 9, 30, 12, 345_000, tzinfo=UTC)
HOSTILE_NAMES = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "' onfocus='document.title=1' autofocus='",
    "{{7*7}}",
    "evil\u202egnp.exe",
    "\u2066isolate\u2069",
    "nul\0inside",
    "line\u2028separator",
    "lone \ud800 surrogate",
    "long_" + "x" * 10_000,
    "zalgo" + "\u0301" * 300,
]


# How long a page takes is a matter of the machine; Playwright waits 5 s.
expect.set_options(timeout=30_000)


def missing(reason: str) -> None:
    """What a test needs is not here: a reason to skip on a laptop, a failure in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def assets() -> None:
    try:
        build()
    except AssetsBuildError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own; server and store live there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="web-server")
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@dataclass
class Site:
    """The running server. `write` stores records; `project_id` is theirs."""

    url: str
    project_id: str
    write: Callable[..., None]

    def record(self, record: Record) -> str:
        return f"{self.url}/projects/{self.project_id}/records/{record.id}"


@pytest.fixture(scope="session")
def site(assets: None, mongodb_url: str, loop: asyncio.AbstractEventLoop) -> Iterator[Site]:
    stop = asyncio.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    ready: threading.Event = threading.Event()
    opened: dict[str, Any] = {}
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=f"browser_{secrets.token_hex(6)}")

    async def serve() -> None:
        async with open_store(settings) as store:
            opened["store"] = store
            opened["project"] = (await store.project_for_service("flask-shop")).id
            server = uvicorn.Server(uvicorn.Config(create_app(store), log_config=None, lifespan="off"))
            serving = asyncio.ensure_future(server.serve([listener]))
            ready.set()
            await stop.wait()
            server.should_exit = True
            await serving

    running = asyncio.run_coroutine_threadsafe(serve(), loop)
    while not ready.wait(0.1):
        if running.done():
            running.result()

    def write(*incoming: IncomingRecord, child_spans: Sequence[IncomingChildSpans] = ()) -> None:
        store: Store = opened["store"]
        batch = IncomingBatch(records=incoming, child_spans=child_spans)
        result = asyncio.run_coroutine_threadsafe(store.write(batch), loop).result(60)
        assert not result.refusals

    yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", opened["project"], write)
    loop.call_soon_threadsafe(stop.set)
    running.result(30)


@pytest.fixture(scope="module")  # not longer: Playwright keeps an event loop running on this thread
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        missing("chromium is not on PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and everything that went wrong in it. `allowed` holds parts of messages that a test expects."""

    page: Page
    problems: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    @property
    def unexpected(self) -> list[str]:
        return [problem for problem in self.problems if not any(part in problem for part in self.allowed)]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens fresh pages that must stay clean: console, page errors, HTTP errors, requests to others."""
    watched: list[Watched] = []
    contexts: list[BrowserContext] = []

    def open_page(
        *,
        locale: str = "en-GB",
        color_scheme: str = "light",
        width: int = 1280,
        height: int = 800,
        **options: Any,
    ) -> Watched:
        context = browser.new_context(
            locale=locale,
            color_scheme=color_scheme,
            viewport={"width": width, "height": height},
            reduced_motion="reduce",
            timezone_id="Asia/Shanghai",
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        observed = Watched(page)
        watched.append(observed)
        problems = observed.problems

        def guard(route: Any) -> None:
            if urlsplit(route.request.url).hostname == "127.0.0.1":
                route.continue_()
            else:
                problems.append(f"left loopback: {route.request.url}")
                route.abort()

        context.route("**/*", guard)
        page.on(
            "console", lambda message: problems.append(f"console: {message.text} {message.location['url']}")
        )
        page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
        page.on(
            "response",
            lambda answer: (
                problems.append(f"HTTP {answer.status}: {answer.url}") if answer.status >= 400 else None
            ),
        )
        return observed

    yield open_page
    for context in contexts:
        context.close()
    assert [problem for each in watched for problem in each.unexpected] == []


@pytest.fixture(scope="session")
def axe_source(assets: None) -> str:
    path = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"
    if not path.is_file():
        missing(f"{path} is missing: python web/build_assets.py --force")
    return path.read_text("utf-8")


def make_record(project_id: str, **changes: Any) -> Record:
    started = changes.pop("timestamp", STARTED)
    values: dict[str, Any] = {
        "project_id": project_id,
        "trace_id": secrets.token_bytes(16),
        "span_id": secrets.token_bytes(8),
        "parent_span_id": None,
        "endpoint": "GET /orders/<customer>",
        "method": "GET",
        "path": "/orders/42",
        "status_code": 200,
        "failed": False,
        "duration": 1.248,
        "timestamp": started,
        "start_time_unix_nano": int(started.timestamp() * 1e9),
        "version": "1.4.2",
        "environment": "production",
        "service": "flask-shop",
    }
    return Record(**(values | changes))


def profiled(record: Record, tree: CallTree, *, cpu_share: float = 0.4) -> IncomingRecord:
    """`record` with `tree` as its profile, as the receiver would hand it over."""
    tree.self_check()
    duration = tree.duration_us / 1e6
    facts = ProfileFacts(
        sample_count=tree.sample_count,
        node_count=tree.node_count,
        interval=0.01,
        duration=duration,
        cpu_time=duration * cpu_share,
        reason="slow",
        truncated=False,
        interrupted=False,
    )
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    values |= {"profile": facts, "hot_functions": hot_function_facts(tree), "duration": duration + 0.004}
    return IncomingRecord(record=Record(**values), payload=encode(tree, max_bytes=1 << 20).payload)


def frame_of(identifier: str) -> Frame:
    """`function|file|line` to a frame; files of the shop are own code."""
    function, file, line = identifier.split("|")
    return Frame(function, file, int(line), file.startswith("shop/"))


def tree_of(stacks: Sequence[tuple[Sequence[str], float]]) -> CallTree:
    builder = CallTreeBuilder(max_nodes=200_000, max_depth=5_000)
    for stack, seconds in stacks:
        builder.add(stack, seconds)
    return builder.build(frame_of)


WSGI = [
    "OpenTelemetryMiddleware.__call__|opentelemetry/instrumentation/wsgi/__init__.py|571",
    "_rewrapped_app.<locals>._wrapped_app|opentelemetry/instrumentation/flask/__init__.py|312",
    "Flask.wsgi_app|flask/app.py|1479",
    "Flask.full_dispatch_request|flask/app.py|904",
    "Flask.dispatch_request|flask/app.py|880",
    "order_history|shop/views.py|48",
]
EXECUTE = [
    "TracedCursorProxy.execute|opentelemetry/instrumentation/dbapi/__init__.py|612",
    "CursorTracer.traced_execution|opentelemetry/instrumentation/dbapi/__init__.py|540",
]
RENDER = [
    "render_template|flask/templating.py|138",
    "_render|flask/templating.py|124",
    "Template.render|jinja2/environment.py|1269",
    "root|shop/templates/orders.html|1",
    "block_content|shop/templates/orders.html|9",
]
REQUESTS = [
    "availability|shop/supplier.py|17",
    "get|requests/api.py|62",
    "Session.request|requests/sessions.py|500",
    "Session.send|requests/sessions.py|673",
    "HTTPAdapter.send|requests/adapters.py|613",
    "HTTPConnectionPool.urlopen|urllib3/connectionpool.py|592",
    "HTTPConnectionPool._make_request|urllib3/connectionpool.py|377",
    "HTTPConnection.getresponse|urllib3/connection.py|521",
    "HTTPResponse.begin|http/client.py|324",
    "SocketIO.readinto|socket.py|694",
]


def shop_tree() -> CallTree:
    """An order page: one query for each order, a naive recommendation, a slow supplier, a template."""
    history = ["load_orders|shop/orders.py|31"]
    item = ["load_items|shop/orders.py|44"]
    recommend = ["recommend|shop/recommendations.py|22"]
    similarity = [*recommend, "similarity|shop/recommendations.py|61"]
    shares: list[tuple[Sequence[str], float]] = [
        (WSGI[:1], 0.004),
        (WSGI[:3], 0.003),
        (
            [
                *WSGI[:3],
                "Flask.preprocess_request|flask/app.py|1366",
                "load_customer|shop/views.py|19",
                *EXECUTE,
            ],
            0.012,
        ),
        (WSGI, 0.006),
        ([*WSGI, *history, *EXECUTE], 0.021),
        ([*WSGI, *history, "Row.__init__|shop/models.py|12"], 0.008),
        ([*WSGI, *history, *item, *EXECUTE], 0.214),
        (
            [*WSGI, *history, *item, *EXECUTE, "Span.set_attribute|opentelemetry/sdk/trace/__init__.py|871"],
            0.031,
        ),
        ([*WSGI, *history, *item], 0.052),
        ([*WSGI, *history, *item, "Item.total|shop/models.py|40", "quantize|decimal.py|2512"], 0.017),
        ([*WSGI, *similarity], 0.306),
        ([*WSGI, *similarity, "tokens|shop/recommendations.py|75"], 0.118),
        ([*WSGI, *similarity, "tokens|shop/recommendations.py|75", "findall|re/__init__.py|216"], 0.044),
        ([*WSGI, *recommend], 0.017),
        ([*WSGI, *recommend, "nlargest|heapq.py|523"], 0.009),
        ([*WSGI, *REQUESTS], 0.243),
        ([*WSGI, *REQUESTS[:-3]], 0.006),
        ([*WSGI, *RENDER], 0.036),
        ([*WSGI, *RENDER, "macro_price|shop/templates/_prices.html|3"], 0.061),
        (
            [*WSGI, *RENDER, "macro_price|shop/templates/_prices.html|3", "escape|markupsafe/__init__.py|26"],
            0.012,
        ),
        ([*WSGI, *RENDER[:1], "Environment.get_or_select_template|jinja2/environment.py|1063"], 0.007),
        (
            [
                *WSGI[:3],
                "Flask.process_response|flask/app.py|1398",
                "SecureCookieSessionInterface.save_session|flask/sessions.py|345",
            ],
            0.005,
        ),
    ]
    return tree_of([(stack, 0.01) for stack, seconds in shares for _ in range(max(1, round(seconds * 100)))])


def deep_tree(depth: int = 500) -> CallTree:
    """Recursion: every level takes a little time itself."""
    stack = [f"walk_{level}|shop/recursion.py|{level + 1}" for level in range(depth)]
    return tree_of([(stack[: level + 1], 0.01) for level in range(depth)])


def large_tree(nodes: int = 50_000) -> CallTree:
    """Random but reproducible: 2,500 functions, depth at most 60, Pareto self times."""
    random_source = random.Random(7)
    frames = [ROOT] + [
        Frame(
            f"function_{index}",
            f"{'shop' if index % 3 else 'library'}/module_{index % 90}.py",
            index,
            index % 3 > 0,
        )
        for index in range(2_500)
    ]
    parent, depth, path = [-1], 0, [0]
    while len(parent) < nodes:
        depth = min(59, random_source.randint(0, depth + 1) if random_source.random() < 0.3 else depth + 1)
        path = path[: depth + 1]
        parent.append(path[-1])
        path.append(len(parent) - 1)
        depth = len(path) - 1
    return CallTree(
        frames=frames,
        parent=parent,
        frame=[0] + [random_source.randrange(1, 2_501) for _ in range(nodes - 1)],
        self_us=[0] + [int(random_source.paretovariate(1.2) * 30) for _ in range(nodes - 1)],
        samples=[0] + [1] * (nodes - 1),
    )


def attribute(key: str, value: str | int) -> KeyValue:
    return KeyValue(
        key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    )


def shop_spans(record: Record) -> IncomingChildSpans:
    """What the standard instrumentations would send with the order page."""
    statements = [
        "SELECT id, name, email FROM customers WHERE id = ?",
        "SELECT * FROM orders WHERE customer_id = ? ORDER BY placed_at DESC",
    ]
    statements += [
        "SELECT i.id, i.quantity, p.price FROM items i JOIN products p ON p.id = i.product_id"
        " WHERE i.order_id = ?"
    ] * 26
    spans: list[Span] = []

    def add(name: str, kind: int, seconds: float, **attributes: str | int) -> None:
        start = record.start_time_unix_nano + len(spans) * 10_000_000
        spans.append(
            Span(
                trace_id=record.trace_id,
                span_id=(len(spans) + 1).to_bytes(8, "big"),
                parent_span_id=record.span_id,
                name=name,
                kind=kind,
                start_time_unix_nano=start,
                end_time_unix_nano=start + int(seconds * 1e9),
                attributes=[attribute(key.replace("__", "."), value) for key, value in attributes.items()],
            )
        )

    for index, statement in enumerate(statements):
        add(
            "SELECT",
            Span.SPAN_KIND_CLIENT,
            0.0112 - index * 0.0001,
            db__system="sqlite",
            db__statement=statement,
        )
    add(
        "GET",
        Span.SPAN_KIND_CLIENT,
        0.247,
        http__request__method="GET",
        url__full="http://supplier.internal:9200/availability?sku=1032",
        http__response__status_code=200,
        server__address="supplier.internal",
    )
    scope = ScopeSpans(spans=spans)
    scope.scope.name = "opentelemetry.instrumentation.sqlite3"
    return IncomingChildSpans(
        project_id=record.project_id,
        trace_id=record.trace_id,
        span_ids=[span.span_id for span in spans],
        timestamp=record.timestamp,
        otlp=ResourceSpans(scope_spans=[scope]).SerializeToString(),
    )


@pytest.fixture(scope="session")
def shop_record(site: Site) -> Record:
    """The realistic one; its page is the picture in the README."""
    record = make_record(
        site.project_id,
        attributes={
            "http.request.method": "GET",
            "url.path": "/orders/42",
            "url.query": "page=1&sort=placed_at",
            "http.route": "/orders/<customer>",
            "http.response.status_code": 200,
            "server.address": "shop.example.com",
            "client.address": "10.0.3.17",
            "user_agent.original": "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
            "http.request.header.accept_language": ["en-GB,en;q=0.8"],
            "http.request.header.authorization": ["Bearer abcdef"],
        },
        resource={
            "service.name": "flask-shop",
            "service.version": "1.4.2",
            "host.name": "shop-7f9c",
            "process.pid": 4121,
            "process.runtime.name": "cpython",
            "process.runtime.version": "3.12.8",
            "telemetry.sdk.language": "python",
        },
    )
    incoming = profiled(record, shop_tree())
    site.write(incoming, child_spans=[shop_spans(incoming.record)])
    return incoming.record


@pytest.fixture(scope="session")
def record_list(site: Site, shop_record: Record) -> list[Record]:
    """An hour of ordinary traffic."""
    random_source = random.Random(11)
    endpoints = [
        ("GET /products", 0.02),
        ("GET /products/<sku>", 0.034),
        ("GET /orders/<customer>", 0.7),
        ("POST /checkout", 0.4),
        ("GET /search", 0.16),
    ]
    batch: list[IncomingRecord] = []
    for index in range(120):
        endpoint, typical = random_source.choice(endpoints)
        method, route = endpoint.split()
        failed = random_source.random() < 0.06
        record = make_record(
            site.project_id,
            endpoint=endpoint,
            method=method,
            path=route.replace("<sku>", f"SKU-{index}").replace("<customer>", str(index)),
            status_code=500 if failed else 200,
            failed=failed,
            duration=typical * random_source.lognormvariate(0, 0.6),
            timestamp=datetime.now(UTC) - timedelta(seconds=30 * index + 5),
        )
        batch.append(profiled(record, shop_tree()) if index % 9 == 4 else IncomingRecord(record=record))
    site.write(*batch)
    return [incoming.record for incoming in batch]


@pytest.fixture(scope="session")
def deep_record(site: Site) -> Record:
    incoming = profiled(make_record(site.project_id, endpoint="GET /deep", path="/deep"), deep_tree())
    site.write(incoming)
    return incoming.record


@pytest.fixture(scope="session")
def large_record(site: Site) -> Record:
    incoming = profiled(make_record(site.project_id, endpoint="GET /large", path="/large"), large_tree())
    site.write(incoming)
    return incoming.record


@pytest.fixture(scope="session")
def hostile_record(site: Site) -> Record:
    """Names that attack, in every place where a name can stand."""
    names = [name.encode("utf-8", "replace").decode() if "\ud800" in name else name for name in HOSTILE_NAMES]
    builder = CallTreeBuilder()
    for index, name in enumerate(HOSTILE_NAMES):
        builder.add([name, f"leaf {index}"], 0.1)
    tree = builder.build(lambda name: Frame(name, f"shop/{name}.py" if len(name) < 300 else name, 7, True))
    record = make_record(
        site.project_id,
        endpoint="GET /<script>document.title='owned'</script>/evil\u202egnp.exe",
        path="/<img src=x onerror=\"document.title='owned'\">",
        version=names[1],
        environment=names[0],
        attributes={f"http.request.header.{name[:80]}": name for name in names},
        events=[
            SpanEvent(
                name="exception",
                time_unix_nano=0,
                attributes={
                    "exception.type": names[0],
                    "exception.message": names[5],
                    "exception.stacktrace": "Traceback\n  </pre>" + names[1],
                },
            )
        ],
    )
    incoming = profiled(record, tree)
    site.write(incoming)
    return incoming.record


@pytest.fixture(scope="session")
def wide_record(site: Site) -> Record:
    """One function with more calls than are shown at once, each of which calls another one."""
    builder = CallTreeBuilder()
    for number in range(150):
        builder.add(["hub", f"call {number}", f"inner {number}"], 0.5 - number / 1_000)
    incoming = profiled(
        make_record(site.project_id), builder.build(lambda name: Frame(name, "shop/hub.py", 7, True))
    )
    site.write(incoming)
    return incoming.record


@pytest.fixture(scope="session")
def plain_record(site: Site) -> Record:
    record = make_record(site.project_id, endpoint="GET /products", path="/products", duration=0.021)
    site.write(IncomingRecord(record=record))
    return record
