"""The demo shop itself: its pages answer, its planted bugs are there, and nothing in it knows of us."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def shop(tmp_path, monkeypatch, supplier_url):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite3"))
    monkeypatch.setenv("SUPPLIER_URL", supplier_url)
    for name in [name for name in sys.modules if name.split(".")[0] == "flask_shop"]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("flask_shop.app").create_app()


@pytest.fixture
def supplier_url():
    stub = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "supplier_stub.py"), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield stub.stdout.readline().split(" ")[1].strip()
    finally:
        stub.terminate()
        assert stub.wait(10) == 0
        stub.stdout.close()


def test_every_page_answers(shop) -> None:
    client = shop.test_client()

    assert "Frame No. 239" in client.get("/").text
    assert "Volume prices" in client.get("/products/17").text
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


def test_slow_or_not_the_recommendations_are_right(shop) -> None:
    # Given how often each product lies in a basket together with product 17
    recommendations, orders = sys.modules["flask_shop.recommendations"], sys.modules["flask_shop.orders"]
    with shop.app_context():
        baskets = orders.load_baskets()
        found = recommendations.also_bought(17)
    wanted = Counter(product for basket in baskets if 17 in basket for product in basket)

    # When every basket adds its weight to each of its products
    scores: Counter[int] = Counter()
    for basket in baskets:
        scores.update(dict.fromkeys(basket, sum(wanted[product] for product in basket)))
    del scores[17]

    # Then the six heaviest are recommended
    assert found == sorted(scores, key=lambda product: (-scores[product], product))[:6]


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


def test_two_workers_that_start_together_fill_the_database_once(shop, tmp_path) -> None:
    # When two processes prepare the same new database at the same time
    path = tmp_path / "together.sqlite3"
    code = f"from flask_shop import database; from pathlib import Path; database.prepare(Path({str(path)!r}))"
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(subprocess.run, [sys.executable, "-c", code], cwd=EXAMPLES) for _ in range(2)]

    # Then both succeed and each product is there once
    assert [run.result().returncode for run in runs] == [0, 0]
    database = sys.modules["flask_shop.database"]
    with database.sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM products").fetchone() == (240,)
    connection.close()


def test_the_supplier_names_the_question_it_understands(supplier_url) -> None:
    import requests

    with requests.Session() as session:
        answer = session.get(f"{supplier_url}/price/1")

    assert (answer.status_code, "stock" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_the_example_contains_no_line_of_ours(path: Path) -> None:
    assert not re.search("pyinstrument|opentelemetry|profil", path.read_text("utf-8").split('"""', 2)[2])
