"""The shop's tables."""

from datetime import date

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    """All tables."""


class Product(Base):
    """One article."""

    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    category: Mapped[str]
    price_cents: Mapped[int]


class Customer(Base):
    """Somebody who ordered."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    country: Mapped[str]


class Item(Base):
    """One line of an order."""

    __tablename__ = "order_items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    quantity: Mapped[int]
    product: Mapped[Product] = relationship(lazy="joined")


class Order(Base):
    """One order of one customer."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    ordered_on: Mapped[date]
    customer: Mapped[Customer] = relationship(lazy="joined")
    items: Mapped[list[Item]] = relationship()


def load_baskets(session: Session) -> list[list[int]]:
    """The product ids of every order."""
    baskets: dict[int, list[int]] = {}
    for order, product in session.execute(
        select(Item.order_id, Item.product_id).order_by(Item.order_id, Item.id)
    ):
        baskets.setdefault(order, []).append(product)
    return list(baskets.values())
