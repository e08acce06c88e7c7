"""Orders with their items."""

from dataclasses import dataclass, field

from flask_shop import database


@dataclass(frozen=True)
class Item:
    """One line of an order."""

    name: str
    quantity: int
    price_cents: int

    @property
    def total_cents(self) -> int:
        """The line's price."""
        return self.quantity * self.price_cents


@dataclass(frozen=True)
class Order:
    """One order of one customer."""

    id: int
    customer: str
    ordered_on: str
    items: list[Item] = field(default_factory=list)

    @property
    def total_cents(self) -> int:
        """The order's price."""
        return sum(item.total_cents for item in self.items)

    @property
    def pieces(self) -> int:
        """How many pieces were ordered."""
        return sum(item.quantity for item in self.items)


def load_latest_orders(limit: int = 100) -> list[Order]:
    """The latest orders, each with its items."""
    rows = database.query(
        "SELECT orders.id, customers.name AS customer, ordered_on FROM orders"
        " JOIN customers ON customers.id = customer_id ORDER BY ordered_on DESC, orders.id DESC LIMIT ?",
        (limit,),
    )
    return [Order(row["id"], row["customer"], row["ordered_on"], load_items(row["id"])) for row in rows]


def find_order(order_id: int) -> Order | None:
    """The order with this id."""
    rows = database.query(
        "SELECT orders.id, customers.name AS customer, ordered_on FROM orders"
        " JOIN customers ON customers.id = customer_id WHERE orders.id = ?",
        (order_id,),
    )
    return Order(**rows[0], items=load_items(order_id)) if rows else None


def load_items(order_id: int) -> list[Item]:
    """The items of one order."""
    rows = database.query(
        "SELECT products.name, quantity, price_cents FROM order_items"
        " JOIN products ON products.id = product_id WHERE order_id = ?",
        (order_id,),
    )
    return [Item(**row) for row in rows]


def load_baskets() -> list[list[int]]:
    """The product ids of every order."""
    baskets: dict[int, list[int]] = {}
    for row in database.query("SELECT order_id, product_id FROM order_items ORDER BY order_id"):
        baskets.setdefault(row["order_id"], []).append(row["product_id"])
    return list(baskets.values())
