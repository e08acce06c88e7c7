"""The shop in Flask: its pages answer, and its planted bugs are there."""

from __future__ import annotations

import importlib
import re
import sys

import pytest


@pytest.fixture
def shop(tmp_path, monkeypatch, importable, supplier_url):
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite3"))
    monkeypatch.setenv("SUPPLIER_URL", supplier_url)
    return importlib.import_module("flask_shop.app").create_app()


def test_every_page_answers(shop) -> None:
    client = shop.test_client()

    assert "Frame No. 239" in client.get("/").text
    assert "Volume prices" in client.get("/products/17").text
    assert client.get("/products/17").text.count('<li><a href="/products/') == 6
    assert client.get("/orders").text.count("<h2>Order") == 100
    assert "average piece" in client.get("/orders/7/invoice").text
    assert client.get("/products/17/availability").json["stock"].keys() == {"north", "south", "west"}
    assert client.get("/health").json == {"status": "ok"}
    assert client.get("/products/9999").status_code == 404


def test_the_invoice_of_a_cancelled_order_fails(shop) -> None:
    assert shop.test_client().get("/orders/25/invoice").status_code == 500


def test_the_orders_page_asks_once_per_order(shop, monkeypatch) -> None:
    # Given a connection that tells its statements
    database = sys.modules["flask_shop.database"]
    statements: list[str] = []
    open_connection = database.connection

    def listening_connection():
        connection = open_connection()
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(database, "connection", listening_connection)

    # When the page of the 100 latest orders is shown
    shop.test_client().get("/orders")

    # Then there is one query for the orders and one for the items of each
    assert len(statements) == 101


def test_timings_are_sent_only_when_asked_for(shop, monkeypatch) -> None:
    # Given the shop as it is, and another one that was asked for its timings
    monkeypatch.setenv("SHOP_SERVER_TIMING", "1")
    measuring = sys.modules["flask_shop.app"].create_app()

    # When both show the same product
    plain, measured = (app.test_client().get("/products/17") for app in (shop, measuring))

    # Then only the second adds the header, and the parts fit into the whole
    assert "Server-Timing" not in plain.headers
    timings = {
        name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", measured.headers["Server-Timing"])
    }
    assert timings["score_baskets"] + timings["volume_prices"] < timings["total"]
    assert plain.data == measured.data
