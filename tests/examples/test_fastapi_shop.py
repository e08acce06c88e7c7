"""The shop in FastAPI: endpoints on the loop and in threads, a websocket, a background task, a stream."""

from __future__ import annotations

import importlib
import logging
import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event


@pytest.fixture
def start(tmp_path, monkeypatch, importable, supplier_url):
    """Function () -> the client of a shop with the environment as it is now."""
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite3"))
    monkeypatch.setenv("SUPPLIER_URL", supplier_url)
    clients: list[TestClient] = []

    def start() -> TestClient:
        app = importlib.import_module("fastapi_shop.app").app
        clients.append(TestClient(app, raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(start) -> TestClient:
    return start()


def test_every_page_answers(client) -> None:
    assert [product["id"] for product in client.get("/").json()] == list(range(240, 216, -1))
    assert len(client.get("/products/17").json()["also_bought"]) == 6
    assert client.get("/products/17/prices").json()["DE"]["1"] == "166.71"
    assert client.get("/products/17/availability").json()["stock"].keys() == {"north", "south", "west"}
    assert len(client.get("/orders").json()) == 100
    assert client.get("/orders/7/invoice").json()["average"]
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/products/9999").status_code == 404


def test_the_invoice_of_a_cancelled_order_fails(client) -> None:
    assert client.get("/orders/25/invoice").status_code == 500


def test_the_orders_page_asks_once_per_order(client) -> None:
    # Given a database that tells its statements
    engine = importlib.import_module("fastapi_shop.database").engine
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))

    # When the page of the 100 latest orders is shown
    client.get("/orders")

    # Then there is one query for the orders and one for the items of each
    assert len(statements) == 101


def test_all_orders_are_streamed_in_several_parts(client) -> None:
    with client.stream("GET", "/orders.csv") as response:
        chunks = list(response.iter_text())

    assert len(chunks) > 1
    assert len("".join(chunks).splitlines()) == 1_500


def test_a_confirmation_is_accepted_and_then_written(client, caplog) -> None:
    caplog.set_level(logging.INFO, logger="uvicorn.error")

    response = client.post("/orders/7/confirmation")

    assert (response.status_code, response.json()) == (202, {"status": "accepted"})
    assert "order 7 is confirmed; recommended: product" in caplog.text


def test_stock_is_told_over_a_websocket_until_the_visitor_leaves(client) -> None:
    with client.websocket_connect("/stock") as connection:
        answers = []
        for product in (17, 18):
            connection.send_text(str(product))
            answers.append(connection.receive_json())

    assert [answer["product"] for answer in answers] == [17, 18]
    assert answers[0]["stock"].keys() == {"north", "south", "west"}


def test_timings_are_sent_only_when_asked_for(start, monkeypatch) -> None:
    # Given a shop that was asked for its timings
    monkeypatch.setenv("SHOP_SERVER_TIMING", "1")
    client = start()

    # When a page is worked out in a thread, and another on the loop
    in_thread, on_loop = (client.get(path) for path in ("/products/17", "/products/17/prices"))

    # Then the planted function of each is told, and fits into the whole
    for response, function in ((in_thread, "score_baskets"), (on_loop, "volume_prices")):
        header = response.headers["Server-Timing"]
        timings = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", header)}
        assert 0 < timings[function] < timings["total"]


def test_timings_are_not_sent_unasked(client) -> None:
    assert "Server-Timing" not in client.get("/products/17").headers
