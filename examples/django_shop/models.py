"""The shop's tables, which are there already: no migration belongs to them."""

from __future__ import annotations

from django.db import models
from django.utils.functional import cached_property


class Product(models.Model):
    """One article."""

    name = models.TextField()
    category = models.TextField()
    price_cents = models.IntegerField()

    class Meta:
        managed = False
        db_table = "products"


class Customer(models.Model):
    """Somebody who ordered."""

    name = models.TextField()
    country = models.TextField()

    class Meta:
        managed = False
        db_table = "customers"


class Order(models.Model):
    """One order of one customer."""

    customer = models.ForeignKey(Customer, models.DO_NOTHING)
    ordered_on = models.DateField()

    class Meta:
        managed = False
        db_table = "orders"

    @cached_property
    def lines(self) -> list[OrderItem]:
        """The order's items with their products."""
        return list(self.items.select_related("product"))

    @property
    def total_cents(self) -> int:
        """The order's price."""
        return sum(line.total_cents for line in self.lines)

    @property
    def pieces(self) -> int:
        """How many pieces were ordered."""
        return sum(line.quantity for line in self.lines)


class OrderItem(models.Model):
    """One line of an order."""

    order = models.ForeignKey(Order, models.DO_NOTHING, related_name="items")
    product = models.ForeignKey(Product, models.DO_NOTHING)
    quantity = models.IntegerField()

    class Meta:
        managed = False
        db_table = "order_items"

    @property
    def total_cents(self) -> int:
        """The line's price."""
        return self.quantity * self.product.price_cents


def load_baskets() -> list[list[int]]:
    """The product ids of every order."""
    baskets: dict[int, list[int]] = {}
    for order, product in OrderItem.objects.order_by("order_id").values_list("order_id", "product_id"):
        baskets.setdefault(order, []).append(product)
    return list(baskets.values())
