"""The data of the three shops: four tables without an index, and the same rows in each."""

import random
import sqlite3
from pathlib import Path

TABLES = """
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, category TEXT, price_cents INTEGER);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, ordered_on TEXT);
CREATE TABLE order_items (id INTEGER PRIMARY KEY, order_id INTEGER, product_id INTEGER, quantity INTEGER);
"""
PRODUCTS, CUSTOMERS, ORDERS = 240, 120, 1_500
MATERIALS = ("Oak", "Steel", "Linen", "Clay", "Cork", "Glass", "Wool", "Copper")
THINGS = ("Lamp", "Chair", "Bowl", "Blanket", "Clock", "Shelf", "Kettle", "Tray", "Basket", "Frame")
CATEGORIES = ("Living", "Kitchen", "Office")
COUNTRIES = ("DE", "FR", "NL", "AT", "IT")


def prepare(path: Path) -> None:
    """Make and fill the tables of a database once. Workers that start together wait for the first one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'products'").fetchone():
            _fill(connection)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _fill(connection: sqlite3.Connection) -> None:
    choose = random.Random(2024)
    for statement in TABLES.strip().split("\n"):
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO products VALUES (?, ?, ?, ?)",
        [
            (
                number,
                f"{MATERIALS[number % 8]} {THINGS[number % 10]} No. {number}",
                CATEGORIES[number % 3],
                choose.randrange(490, 24_990, 10),
            )
            for number in range(1, PRODUCTS + 1)
        ],
    )
    connection.executemany(
        "INSERT INTO customers VALUES (?, ?, ?)",
        [(number, f"Customer {number}", choose.choice(COUNTRIES)) for number in range(1, CUSTOMERS + 1)],
    )
    orders, items = [], []
    for order in range(1, ORDERS + 1):
        day = f"2026-{1 + order * 12 // (ORDERS + 1):02d}-{choose.randrange(1, 29):02d}"
        orders.append((order, choose.randrange(1, CUSTOMERS + 1), day))
        # Every 25th order was cancelled and has no items left. Low ids are the shop's best sellers.
        wanted = 0 if order % 25 == 0 else choose.randrange(3, 9)
        basket = {int(choose.triangular(1, PRODUCTS + 1, 1)) for _ in range(wanted)}
        items += [(order, product, choose.randrange(1, 4)) for product in sorted(basket)]
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", orders)
    connection.executemany("INSERT INTO order_items (order_id, product_id, quantity) VALUES (?, ?, ?)", items)
