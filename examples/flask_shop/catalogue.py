"""Products as they stand in the database."""

from dataclasses import dataclass

from flask_shop import database


@dataclass(frozen=True)
class Product:
    """One article; its price is in cents."""

    id: int
    name: str
    category: str
    price_cents: int


def newest_products(limit: int = 24) -> list[Product]:
    """The products added last."""
    rows = database.query("SELECT * FROM products ORDER BY id DESC LIMIT ?", (limit,))
    return [Product(**row) for row in rows]


def find_product(product_id: int) -> Product | None:
    """The product with this id."""
    rows = database.query("SELECT * FROM products WHERE id = ?", (product_id,))
    return Product(**rows[0]) if rows else None


def products_by_id(product_ids: list[int]) -> list[Product]:
    """These products, in this order."""
    places = ", ".join("?" * len(product_ids))
    rows = database.query(f"SELECT * FROM products WHERE id IN ({places})", product_ids)
    found = {row["id"]: Product(**row) for row in rows}
    return [found[product_id] for product_id in product_ids]
