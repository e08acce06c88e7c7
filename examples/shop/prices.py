"""Prices: volume discounts, the average price on an invoice, and how they are written."""

from decimal import ROUND_HALF_UP, Decimal

from shop.timing import measured

STEPS = ((10, Decimal("0.02")), (50, Decimal("0.05")), (100, Decimal("0.08")), (250, Decimal("0.11")))
LARGEST_QUANTITY = 10_000
SHOWN = (1, 10, 50, 100, 250, 500, 1_000, 10_000)
VAT_PERCENT = {"AT": 20, "DE": 19, "FR": 20, "IT": 22, "NL": 21}
CENT = Decimal("0.01")


def volume_prices(price_cents: int) -> list[tuple[int, Decimal]]:
    """What one piece costs, for the quantities that the product page shows.

    Works out every quantity up to the largest and then picks eight of them.
    """
    with measured("volume_prices"):
        prices = {quantity: piece_price(price_cents, quantity) for quantity in range(1, LARGEST_QUANTITY + 1)}
        return [(quantity, prices[quantity]) for quantity in SHOWN]


def piece_price(price_cents: int, quantity: int) -> Decimal:
    """The price of one piece in euro, rounded to the cent, when `quantity` are bought."""
    discount = max((share for least, share in STEPS if quantity >= least), default=Decimal(0))
    return (Decimal(price_cents) / 100 * (1 - discount)).quantize(CENT, ROUND_HALF_UP)


def average_piece_price(total_cents: int, pieces: int) -> Decimal:
    """The average price of the pieces of an order, in euro."""
    return (Decimal(total_cents) / 100 / pieces).quantize(CENT, ROUND_HALF_UP)


def euro(cents: int) -> str:
    """1234 -> "12.34 €"."""
    return f"{cents / 100:,.2f} €"
