"""The demo's visitors are few and end."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from websockets.sync.server import serve

from all_in_one.demo_load import FIRST_PAGE, FIRST_VISITS, SHOPS, visit, walk
from all_in_one.demos import DEMOS


@pytest.fixture
def shop():
    """A server that remembers what it was asked and fails every invoice."""
    asked: list[str] = []

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(500 if "invoice" in self.path else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_asks_as_often_as_it_was_told_and_counts_the_answers(shop) -> None:
    address, asked = shop

    answers = visit("flask", address, per_second=1_000, requests=60)

    failed = sum("invoice" in path for path in asked)
    assert (len(asked), answers) == (60, {"200": 60 - failed, "500": failed})
    assert failed > 0


def test_every_demo_has_visitors() -> None:
    assert SHOPS.keys() == DEMOS.keys()


COMMON = {
    "GET /",
    "GET /orders",
    "GET /products/N",
    "GET /products/N/availability",
    "GET /orders/N/invoice",
}
OF_FASTAPI = {"GET /products/N/prices", "GET /orders.csv", "POST /orders/N/confirmation", "WEBSOCKET /stock"}


@pytest.mark.parametrize(
    ("name", "pages"), [("flask", COMMON), ("django", COMMON), ("fastapi", COMMON | OF_FASTAPI)]
)
def test_the_walk_begins_at_the_slow_page_and_is_the_same_each_time(name, pages) -> None:
    first, again, other = (list(itertools.islice(walk(name, seed), 200)) for seed in (1, 1, 2))

    assert first[:FIRST_VISITS] == [FIRST_PAGE] * FIRST_VISITS
    assert first == again != other
    assert {re.sub(r"\d+", "N", page) for page in first} == pages


def test_visitors_ask_on_a_websocket_and_by_other_methods(monkeypatch) -> None:
    # Given a shop with a websocket, and a walk that leads there
    from all_in_one import demo_load

    asked: list[str] = []

    def converse(connection) -> None:
        asked.append(connection.request.path)
        for question in connection:
            asked.append(question)
            connection.send("{}")

    monkeypatch.setattr(
        demo_load, "walk", lambda *_: iter(["WEBSOCKET /stock", "POST /orders/7/confirmation"])
    )
    with serve(converse, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.socket.getsockname()[1]}"

        # When they visit it
        answers = visit("fastapi", address, per_second=1_000, requests=2)
        server.shutdown()
        thread.join()

    # Then they had a conversation (and a websocket server takes no POST)
    assert asked == ["/stock", "1", "2", "3"]
    assert answers["101"] == 1
    assert answers.total() == 2


def test_a_shop_that_is_away_is_counted_and_not_the_end() -> None:
    assert visit("flask", "http://127.0.0.1:9", per_second=1_000, requests=3) == {"ConnectionRefusedError": 3}


def test_it_never_asks_faster_than_allowed(shop, monkeypatch) -> None:
    # Given a clock that only sleeping moves
    from all_in_one import demo_load

    now = [0.0]
    monkeypatch.setattr(demo_load.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(demo_load.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    # When ten pages are visited at four per second
    visit("flask", shop[0], per_second=4, requests=10)

    # Then the last one began after nine quarters of a second
    assert now[0] == pytest.approx(9 / 4)


def test_sigterm_ends_it_without_a_traceback(shop) -> None:
    # Given visitors that would stay for long
    address, _ = shop
    command = [
        sys.executable,
        "-m",
        "all_in_one.demo_load",
        "flask",
        address,
        "--per-second",
        "50",
        "--requests",
        "100000",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("200 requests: ")

        # When they are asked to leave
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)

    # Then they do, and say nothing
    assert (process.returncode, errors) == (0, "")
