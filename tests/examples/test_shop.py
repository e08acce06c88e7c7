"""What the three shops share, and what none of them may hold."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_slow_or_not_the_recommendations_are_right(importable, tmp_path) -> None:
    # Given the shop's orders, and how often each product lies in a basket together with product 17
    from shop import data
    from shop.baskets import also_bought

    data.prepare(tmp_path / "shop.sqlite3")
    with closing(sqlite3.connect(tmp_path / "shop.sqlite3")) as connection:
        by_order: dict[int, list[int]] = {}
        for order, product in connection.execute("SELECT order_id, product_id FROM order_items"):
            by_order.setdefault(order, []).append(product)
    baskets = list(by_order.values())
    wanted = Counter(product for basket in baskets if 17 in basket for product in basket)

    # When every basket adds its weight to each of its products
    scores: Counter[int] = Counter()
    for basket in baskets:
        scores.update(dict.fromkeys(basket, sum(wanted[product] for product in basket)))
    del scores[17]

    # Then the six heaviest are recommended
    expected = sorted(scores, key=lambda product: (-scores[product], product))[:6]
    assert also_bought(17, baskets) == expected


def test_two_workers_that_start_together_fill_the_database_once(tmp_path) -> None:
    # When two processes prepare the same new database at the same time
    path = tmp_path / "together.sqlite3"
    code = f"from shop import data; from pathlib import Path; data.prepare(Path({str(path)!r}))"
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(subprocess.run, [sys.executable, "-c", code], cwd=EXAMPLES) for _ in range(2)]

    # Then both succeed and each product is there once
    assert [run.result().returncode for run in runs] == [0, 0]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM products").fetchone() == (240,)


def test_the_supplier_names_the_question_it_understands(supplier_url) -> None:
    import requests

    with requests.Session() as session:
        answer = session.get(f"{supplier_url}/price/1")

    assert (answer.status_code, "stock" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: str(path.relative_to(EXAMPLES))
)
def test_the_example_contains_no_line_of_ours(path: Path) -> None:
    _, _, code = path.read_text("utf-8").split('"""', 2)

    assert not re.search("pyinstrument|opentelemetry|profil", code)
