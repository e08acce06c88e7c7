"""Prices: volume discounts, and the average price on an invoice."""

from decimal import ROUND_HALF_UP, Decimal

from flask_shop.catalogue import Product
from flask_shop.orders import Order
from flask_shop.timing import measured

STEPS = ((10, Decimal("0.02")), (50, Decimal("0.05")), (100, Decimal("0.08")), (250, Decimal("0.11")))
LARGEST_QUANTITY = 10_000
SHOWN = (1, 10, 50, 100, 250, 500, 1_000, 10_000)
CENT = Decimal("0.01")


def volume_prices(product: Product) -> list[tuple[int, Decimal]]:
    """What one piece costs, for the quantities that the product page shows.

    Works out every quantity up to the largest and then picks eight of them.
    """
    with measured("volume_prices"):
        prices = {quantity: piece_price(product, quantity) for quantity in range(1, LARGEST_QUANTITY + 1)}
        return [(quantity, prices[quantity]) for quantity in SHOWN]


def piece_price(product: Product, quantity: int) -> Decimal:
    """The price of one piece in euro, rounded to the cent, when `quantity` are bought."""
    discount = max((share for least, share in STEPS if quantity >= least), default=Decimal(0))
    return (Decimal(product.price_cents) / 100 * (1 - discount)).quantize(CENT, ROUND_HALF_UP)


def average_piece_price(order: Order) -> Decimal:
    """The average price of the pieces of an order, in euro."""
    pieces = sum(item.quantity for item in order.items)
    return (Decimal(order.total_cents) / 100 / pieces).quantize(CENT, ROUND_HALF_UP)
