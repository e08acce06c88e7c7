"""The shop in Django, in processes of its own: settings of Django are one per process."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

LIMIT_SECONDS = 60
BIN = Path(sys.executable).parent
SERVERS = {
    "wsgi": ["gunicorn", "--threads", "4", "--no-control-socket", "django_shop.wsgi:application"],
    "asgi": ["uvicorn", "--log-level", "warning", "django_shop.asgi:application"],
}


def environment(directory: Path, supplier_url: str, **variables: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "django_shop.settings",
        "SHOP_DATABASE": str(directory / "shop.sqlite3"),
        "SUPPLIER_URL": supplier_url,
        **variables,
    }


@pytest.fixture(scope="module", params=SERVERS)
def site(request, tmp_path_factory, examples, supplier_url):
    """The address of the shop on one server, which was asked for its timings."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The server takes over a socket that listens already: no port can be lost, no connection refused.
        os.set_inheritable(listener.fileno(), True)
        command, *arguments = SERVERS[request.param]
        server = subprocess.Popen(
            [
                BIN / command,
                *(["--bind", f"fd://{listener.fileno()}"] if command == "gunicorn" else []),
                *(["--fd", str(listener.fileno())] if command == "uvicorn" else []),
                *arguments,
            ],
            cwd=examples,
            env=environment(tmp_path_factory.mktemp(request.param), supplier_url, SHOP_SERVER_TIMING="1"),
            pass_fds=[listener.fileno()],
        )
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.terminate()
        server.wait(LIMIT_SECONDS)


@pytest.fixture
def get(site):
    """Function (path) -> response."""
    with requests.Session() as session:
        session.trust_env = False
        yield lambda path: session.get(site + path, timeout=LIMIT_SECONDS)


def test_every_page_answers(get) -> None:
    assert "Frame No. 239" in get("/").text
    assert "Volume prices" in get("/products/17").text
    assert get("/products/17").text.count('<li><a href="/products/') == 6
    assert get("/orders").text.count("<h2>Order") == 100
    assert "average piece" in get("/orders/7/invoice").text
    assert get("/products/17/availability").json()["stock"].keys() == {"north", "south", "west"}
    assert get("/health").json() == {"status": "ok"}
    assert get("/products/9999").status_code == 404


def test_the_invoice_of_a_cancelled_order_fails(get) -> None:
    assert get("/orders/25/invoice").status_code == 500


def test_the_parts_that_were_timed_fit_into_the_whole(get) -> None:
    header = get("/products/17").headers["Server-Timing"]

    timings = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", header)}
    assert timings["score_baskets"] + timings["volume_prices"] < timings["total"]


COUNT_QUERIES = """
import django
django.setup()
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
with CaptureQueriesContext(connection) as queries:
    response = Client().get("/orders", headers={"host": "localhost"})
print(response.status_code, len(queries), "Server-Timing" in response.headers)
"""


def test_the_orders_page_asks_once_per_order_and_sends_no_timings_unasked(
    tmp_path, examples, supplier_url
) -> None:
    counted = subprocess.run(
        [sys.executable, "-c", COUNT_QUERIES],
        cwd=examples,
        env=environment(tmp_path, supplier_url),
        capture_output=True,
        text=True,
        check=True,
    )

    # One query for the orders and one for the items of each.
    assert counted.stdout.split() == ["200", "101", "False"]
