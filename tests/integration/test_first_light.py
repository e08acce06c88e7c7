"""Slow requests of untouched apps (Flask, Django, FastAPI), from their server to API and flame graph."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from urllib.parse import quote, urlsplit

import pytest

from all_in_one import services
from all_in_one.console import Console
from all_in_one.demos import DJANGO, FASTAPI, FLASK, Demo
from all_in_one.interrupts import Interrupts
from all_in_one.launch import choose_addresses
from all_in_one.launch_settings import LaunchSettings
from all_in_one.services import Addresses
from all_in_one.supervisor import Supervisor
from profile_store.embedded_mongodb import EmbeddedMongoDB, embedded_mongodb
from tests.free_ports import find_free_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TOLERANCE = 0.10
ARRIVAL_SECONDS = 60
SLOW_PAGE = "/products/17"
SLOW_ENDPOINT = "GET /products/<int:product_id>"


@dataclass(frozen=True)
class Answer:
    """What came back for one request, and the trace it began."""

    trace_id: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def timings(self) -> dict[str, float]:
        """What the shop measured itself, in milliseconds."""
        header = {name.lower(): value for name, value in self.headers}["server-timing"]
        return {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", header)}


class Site:
    """A server on loopback, asked without any library that would change or follow something."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = urlsplit(url).hostname, urlsplit(url).port

    def get(self, path: str, *, method: str = "GET", trace_id: str = "") -> Answer:
        trace_id = trace_id or secrets.token_hex(16)
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        try:
            connection.request(
                method, path, headers={"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
            )
            response = connection.getresponse()
            return Answer(trace_id, response.status, response.getheaders(), response.read())
        finally:
            connection.close()


class Api(Site):
    """The REST API, as a client sees it."""

    def data(self, path: str):
        answer = self.get(f"/api/v1{path}")
        assert answer.status == 200, answer.body
        return json.loads(answer.body)["data"]

    def project_id(self, name: str) -> str | None:
        return next((item["id"] for item in self.data("/projects")["items"] if item["name"] == name), None)

    def records(self, project_id: str, **filters: str) -> list[dict]:
        """All records, page after page."""
        items, page = [], 1
        query = "".join(f"&{name}={quote(value)}" for name, value in filters.items())
        while True:
            found = self.data(
                f"/performance/records?project_key={project_id}&page_size=100&page={page}&sort=timestamp{query}"
            )
            items += found["items"]
            if not found["pagination"]["has_next"]:
                return items
            page += 1


def wait_for(what: Callable[[], object], *, seconds: float = ARRIVAL_SECONDS):
    """The first true value of `what`."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return value


class Platform:
    """Receiver, API and pages over a database of their own, and shops that send to them."""

    def __init__(self, supervisor: Supervisor, addresses: Addresses, directory) -> None:
        self.addresses = addresses
        self.api = Api(addresses.web)
        self.supervisor = supervisor
        self._directory = directory

    def start_shop(self, demo: Demo = FLASK, *, endpoint: str = "", **environment: str) -> Site:
        """The demo's own shop and supplier, sending to `endpoint` or straight to the receiver."""
        addresses = choose_addresses(LaunchSettings.from_environment(), with_demo=True)
        number = addresses.shop_port
        supplier, shop, _ = services.demo_services(demo, addresses, data=self._directory / str(number))
        target = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint or self.addresses.otlp_endpoint}
        self.supervisor.start(replace(supplier, name=f"supplier-{number}"))
        self.supervisor.start(
            replace(shop, name=f"shop-{number}", environment={**shop.environment, **target, **environment})
        )
        site = Site(f"http://127.0.0.1:{number}")
        wait_for(lambda: site.get("/health").status == 200)
        return site


@pytest.fixture
def start_platform(tmp_path, monkeypatch):
    """Function (mongodb_url, database) -> Platform; everything is stopped after the test."""
    for name in ("OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "HTTP_PORT", "SHOP_PORT"):
        monkeypatch.setenv(name, "0")
    (tmp_path / "logs").mkdir()
    supervisor = Supervisor(Console(sys.stdout), Interrupts(), logs=tmp_path / "logs")

    def start(mongodb_url: str, database: str) -> Platform:
        monkeypatch.setenv("MONGODB_DATABASE", database)
        settings = LaunchSettings.from_environment()
        addresses = choose_addresses(settings, with_demo=False)
        for service in services.platform_services(
            settings, addresses, mongodb_url=mongodb_url, data=tmp_path
        ):
            supervisor.start(service)
        return Platform(supervisor, addresses, tmp_path)

    yield start
    supervisor.stop()


@pytest.fixture
def platform(start_platform, mongodb_url, mongodb_database) -> Platform:
    return start_platform(mongodb_url, mongodb_database)


# --- The page ---

CHROMIUM_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture
def open_page():
    """Function (url) -> page in a fresh profile. Afterwards no page may have complained or left loopback."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium")
    if executable is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("chromium is not on PATH")
    problems: list[str] = []

    def watch(request) -> None:
        if urlsplit(request.url).hostname != "127.0.0.1":
            problems.append(f"request to {request.url}")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)

        def open_page(url: str):
            page = browser.new_context(locale="en-GB").new_page()
            page.on("request", watch)
            page.on("console", lambda message: problems.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
            page.goto(url)
            page.locator("[data-flame][data-state=ready]").wait_for()
            return page

        yield open_page
        browser.close()
    assert problems == []


def share_on_page(page, function: str) -> float:
    """What the page answers to a search for `function`: its share of the request."""
    page.get_by_role("searchbox").fill(function)
    matches = page.locator("[data-part=matches]")
    wait_for(lambda: "%" in matches.inner_text(), seconds=10)
    return float(re.search(r"([\d.]+)\s*%", matches.inner_text())[1]) / 100


# --- The proofs ---


PLANTED = ("score_baskets", "volume_prices")


def seconds_in(call: dict, function: str) -> float:
    """Time in the outermost calls of `function`."""
    if call["function"] == function:
        return call["duration"]
    return sum(seconds_in(child, function) for child in call["children"])


def share_in_trees(details: list[dict], function: str) -> float:
    """What the function took of a request, by its tree; the median of these."""
    return median(
        seconds_in(detail["function_calls"][0], function) / detail["profile"]["duration"]
        for detail in details
    )


def share_by_the_shops_clock(answers: list[Answer], function: str) -> float:
    """What the function took of a request, by the shop's own measurement; the median of these."""
    return median(answer.timings[function] / answer.timings["total"] for answer in answers)


def prove_first_light(platform: Platform, open_page, endpoint: str = "") -> None:
    # Given the slow page of the untouched shop, asked in turns without profiling and with all of it
    plain = platform.start_shop(SHOP_SERVER_TIMING="1", OTEL_PYINSTRUMENT_ENABLED="false")
    shop = platform.start_shop(endpoint=endpoint, SHOP_SERVER_TIMING="1")
    for warm in (plain, shop):
        warm.get(SLOW_PAGE)
    api = platform.api
    project = wait_for(lambda: api.project_id("flask-shop"))
    unprofiled: list[Answer] = []
    profiled: list[Answer] = []

    def arrived() -> list[dict]:
        items = {item["trace_id"]: item for item in api.records(project, endpoint=SLOW_ENDPOINT)}
        return [items[answer.trace_id] for answer in profiled if answer.trace_id in items]

    def assert_true_shares() -> tuple[list[dict], list[dict]]:
        items = arrived()
        details = [api.data(f"/performance/records/{item['id']}?project_key={project}") for item in items]
        assert all(item["has_profile"] for item in items)
        for detail, answer in zip(details, profiled, strict=True):
            for function in PLANTED:
                true = share_by_the_shops_clock([answer], function)
                assert share_in_trees([detail], function) == pytest.approx(true, abs=TOLERANCE), function
        return items, details

    # When ten are asked one after the other, exports running beside them
    for _ in range(10):
        unprofiled.append(plain.get(SLOW_PAGE))
        profiled.append(shop.get(SLOW_PAGE))
    wait_for(lambda: len(arrived()) == 10)

    # Then every one has a tree, in which the planted functions carry the share that the shop measured in that
    # very request, and the planted function is on top where it took more than half
    items, details = assert_true_shares()
    for item, answer in zip(items, profiled, strict=True):
        if share_by_the_shops_clock([answer], "score_baskets") > 0.5:
            assert item["top_function"].split()[0] == "score_baskets"
    assert Counter(item["top_function"].split()[0] for item in items).most_common(1)[0][0] == "score_baskets"

    # And it is the one that they have without a profiler
    for function in PLANTED:
        true = share_by_the_shops_clock(unprofiled, function)
        assert share_in_trees(details, function) == pytest.approx(true, abs=TOLERANCE), function

    # And on top of all ten, when the record of each has arrived before the next is asked
    unprofiled.clear()
    profiled.clear()
    for count in range(1, 11):
        unprofiled.append(plain.get(SLOW_PAGE))
        profiled.append(shop.get(SLOW_PAGE))
        wait_for(lambda count=count: len(arrived()) == count)
    items, details = assert_true_shares()
    assert {item["top_function"].split()[0] for item in items} == {"score_baskets"}

    # And every query names the line of the shop that issued it, and each record its process
    queries = [query for detail in details for query in detail["database_queries"]]
    assert queries
    assert all(re.search(r"flask_shop/\w+\.py:\d+\)|templates/", query["caller"]) for query in queries), (
        queries
    )
    for detail in details:
        assert detail["runtime"]["framework_version"].startswith("flask 3.")
        assert detail["server_info"]["pid"]
        assert detail["performance_metrics"]["memory_usage"]["peak_memory"] > 10

    # And the page of one of them shows it
    page = open_page(f"{api.url}/projects/{project}/records/{items[0]['id']}")
    assert page.get_by_role("heading", level=1).inner_text().startswith(SLOW_ENDPOINT)
    shown = share_on_page(page, "score_baskets")
    assert shown == pytest.approx(share_in_trees(details[:1], "score_baskets"), abs=0.01)

    # And its address brings the same view to somebody else
    other = open_page(page.url)
    assert other.get_by_role("searchbox").input_value() == "score_baskets"
    assert (
        other.locator("[data-part=matches]").inner_text() == page.locator("[data-part=matches]").inner_text()
    )


@pytest.mark.alone
@pytest.mark.browser
def test_the_slow_function_of_an_untouched_app_carries_its_true_share_in_the_browser(
    platform, open_page
) -> None:
    prove_first_light(platform, open_page)


@pytest.mark.alone
@pytest.mark.browser
@pytest.mark.timeout(900)
def test_the_same_through_a_standard_collector_with_the_usual_limits(
    platform, open_page, start_collector
) -> None:
    # With the shipped configuration, but 4 MiB by gRPC as all Collectors take by default
    collector = start_collector(
        f"127.0.0.1:{platform.addresses.otlp_grpc_port}",
        ["yaml:receivers::otlp::protocols::grpc::max_recv_msg_size_mib: 4"],
    )

    prove_first_light(platform, open_page, endpoint=f"http://{collector.grpc_endpoint}")


def details_of(api: Api, demo: Demo, answers: list[Answer]) -> list[dict]:
    """The record of each answer, when all have arrived."""
    project = wait_for(lambda: api.project_id(demo.service_name))

    def arrived() -> dict[str, str]:
        return {item["trace_id"]: item["id"] for item in api.records(project)}

    wait_for(lambda: arrived().keys() >= {answer.trace_id for answer in answers})
    ids = arrived()
    return [
        api.data(f"/performance/records/{ids[answer.trace_id]}?project_key={project}") for answer in answers
    ]


def in_turns(sites: list[Site], paths: list[str], *, rounds: int = 6) -> list[list[Answer]]:
    """The answers of each site; every page is asked in each round, on every site after the other."""
    for site, path in product(sites, paths * 2):
        site.get(path)
    answers: list[list[Answer]] = [[] for _ in sites]
    for _ in range(rounds):
        for path in paths:
            for site, given in zip(sites, answers, strict=True):
                given.append(site.get(path))
    return answers


@pytest.mark.alone
def test_djangos_views_carry_their_true_shares_and_its_orm_its_queries(platform) -> None:
    # Given the slow page, asked in turns without profiling and with all of it
    plain = platform.start_shop(DJANGO, SHOP_SERVER_TIMING="1", OTEL_PYINSTRUMENT_ENABLED="false")
    shop = platform.start_shop(DJANGO, SHOP_SERVER_TIMING="1")
    unprofiled, profiled = in_turns([plain, shop], [SLOW_PAGE])

    # And one page of each other kind
    orders, availability = shop.get("/orders"), shop.get("/products/17/availability")

    # When the records have arrived
    *slow, orders, availability = details_of(platform.api, DJANGO, [*profiled, orders, availability])

    # Then the planted functions have the shares that they have without a profiler
    for function in PLANTED:
        true = share_by_the_shops_clock(unprofiled, function)
        assert share_in_trees(slow, function) == pytest.approx(true, abs=TOLERANCE), function

    # And the statement that the template repeats is one group, with the line of the model
    groups = {query["count"]: query["caller"] for query in orders["database_queries"]}
    assert groups.keys() == {1, 100}
    assert groups[100].startswith("Order.lines (django_shop/models.py:")

    # And the async view stands above the calls that it made in threads
    assert len(availability["external_calls"]) == 3
    view, calls = (share_in_trees([availability], function) for function in ("availability", "pieces"))
    assert 0.75 < calls <= view <= 1


IN_A_THREAD = "/products/17"
ON_THE_LOOP = "/products/17/prices"
FASTAPI_PLANTED = {IN_A_THREAD: "score_baskets", ON_THE_LOOP: "volume_prices"}


@pytest.mark.alone
def test_fastapis_endpoints_carry_their_true_shares_on_the_loop_and_in_threads(platform) -> None:
    # Given a def and an async endpoint, asked in turns without profiling and with all of it
    one_process = replace(FASTAPI, server=("uvicorn", "--host", "127.0.0.1", "--port", "{port}"))
    plain = platform.start_shop(one_process, SHOP_SERVER_TIMING="1", OTEL_PYINSTRUMENT_ENABLED="false")
    shop = platform.start_shop(FASTAPI, SHOP_SERVER_TIMING="1", OTEL_PYINSTRUMENT_MAX_CONCURRENT="16")
    paths = list(FASTAPI_PLANTED)
    unprofiled, profiled = in_turns([plain, shop], paths)

    # And many at once
    with ThreadPoolExecutor(4) as visitors:
        at_once = list(visitors.map(shop.get, paths * 8))

    # When the records have arrived
    details = details_of(platform.api, FASTAPI, profiled + at_once)
    alone, together = details[: len(profiled)], details[len(profiled) :]

    for number, (path, function) in enumerate(FASTAPI_PLANTED.items()):
        # Then the planted function of each has the share that it has without a profiler
        true = share_by_the_shops_clock(unprofiled[number::2], function)
        assert share_in_trees(alone[number::2], function) == pytest.approx(true, abs=TOLERANCE), path

        # And under concurrency the one that the shop measured in those very requests
        true = share_by_the_shops_clock(at_once[number::2], function)
        assert share_in_trees(together[number::2], function) == pytest.approx(true, abs=TOLERANCE), path

        # And no tree holds the work of the other endpoint
        (other,) = set(FASTAPI_PLANTED.values()) - {function}
        assert not any(seconds_in(detail["function_calls"][0], other) for detail in details[number::2])


REQUESTS = 2_000
OUTAGE_AFTER = 700
OUTAGE_SECONDS = 10.0


def hang(database: EmbeddedMongoDB, _running: ExitStack, _directory: Path) -> None:
    """The database stands still for ten seconds."""
    os.kill(database.pid, signal.SIGSTOP)
    time.sleep(OUTAGE_SECONDS)
    os.kill(database.pid, signal.SIGCONT)


def die(database: EmbeddedMongoDB, running: ExitStack, directory: Path) -> None:
    """The database is killed, and after ten seconds started again on the same data at the same address."""
    os.kill(database.pid, signal.SIGKILL)
    running.close()
    time.sleep(OUTAGE_SECONDS)
    assert running.enter_context(embedded_mongodb(directory)).url == database.url


@pytest.mark.parametrize("outage", [hang, die], ids=["hangs", "is killed"])
def test_every_span_arrives_exactly_once_although_the_database_fails_for_ten_seconds(
    outage, start_platform, mongod_executable, tmp_path
) -> None:
    # Given a database of our own at a port that nobody else is given while it is away
    directory = tmp_path / "database"
    directory.mkdir()
    (directory / "mongodb.port").write_text(str(find_free_ports(1)[0]))
    with ExitStack() as running, ThreadPoolExecutor(1) as operator:
        database = running.enter_context(embedded_mongodb(directory))
        platform = start_platform(database.url, "outage")

        # And a shop whose exporter is patient and has room for what must wait
        shop = platform.start_shop(
            OTEL_PYTHON_EXCLUDED_URLS="", OTEL_BSP_MAX_QUEUE_SIZE="50000", OTEL_EXPORTER_OTLP_TIMEOUT="120"
        )
        shop_log = platform.supervisor.log_of(f"shop-{urlsplit(shop.url).port}")

        # When it answers 2,000 requests, and the database fails meanwhile
        paths = ["/health", "/", "/health", "/orders/7/invoice", "/health"]
        answers: list[Answer] = []
        for number in range(REQUESTS):
            if number == OUTAGE_AFTER:
                back = operator.submit(outage, database, running, directory)
            answers.append(shop.get(paths[number % len(paths)]))
        back.result()
        assert {answer.status for answer in answers} == {200}

        # Then each of them is there, once
        project = wait_for(lambda: platform.api.project_id("flask-shop"))
        sent = Counter(answer.trace_id for answer in answers)

        def stored() -> list[dict]:
            return [item for item in platform.api.records(project) if item["trace_id"] in sent]

        wait_for(lambda: {item["trace_id"] for item in stored()} == sent.keys(), seconds=120)
        records = stored()
        assert Counter(item["trace_id"] for item in records) == sent

        # And they were profiled. All were to be, but only so many trees may wait for an export that is stuck
        profiled = sum(item["has_profile"] for item in records)
        print(f"{profiled} of {REQUESTS} records have a profile")
        assert profiled >= REQUESTS / 2
        log = shop_log.read_text("utf-8")
        assert "StatusCode.UNAVAILABLE" in log  # the outage was felt
        assert "Failed to export" not in log
        platform.supervisor.stop()


COMPARED = [
    *[
        ("GET", path)
        for path in ("/", "/products/17", "/products/240", "/orders", "/orders/7/invoice", "/health")
    ],
    *[
        ("GET", path)
        for path in ("/orders/25/invoice", "/products/9999", "/nowhere", "/products/3/availability")
    ],
    *[("HEAD", "/orders"), ("POST", "/orders"), ("OPTIONS", "/")],
]


def test_profiling_changes_no_byte_of_a_response(platform) -> None:
    # Given the same shop with and without profiling
    # (the order of the methods in an Allow header depends on the hash seed)
    profiled = platform.start_shop(PYTHONHASHSEED="0")
    plain = platform.start_shop(PYTHONHASHSEED="0", OTEL_PYINSTRUMENT_ENABLED="false")

    # When both are asked the same, each page twice
    def response(shop: Site, method: str, path: str):
        answer = shop.get(path, method=method)
        return answer, (answer.status, [h for h in answer.headers if h[0] != "Date"], answer.body)

    pairs = [
        (response(profiled, *request), response(plain, *request)) for request in COMPARED for _ in range(2)
    ]

    # Then status, headers and body are the same
    for (_, with_profile), (_, without) in pairs:
        assert with_profile == without
    assert {status for (_, (status, _, _)), _ in pairs} == {200, 404, 405, 500}

    # And the profiled one was profiled indeed
    project = wait_for(lambda: platform.api.project_id("flask-shop"))
    traces = {answer.trace_id for (answer, _), _ in pairs}

    def profiles() -> set[str]:
        found = {item["trace_id"] for item in platform.api.records(project) if item["has_profile"]}
        return found & traces

    # (the shop's health page is not traced at all)
    wait_for(lambda: len(profiles()) == len(traces) - 2)
