"""What the supplier has in stock, asked over HTTP."""

import requests
from asgiref.sync import sync_to_async
from django.conf import settings

WAREHOUSES = ("north", "south", "west")
TIMEOUT_SECONDS = 5


async def stock(product_id: int) -> dict[str, int]:
    """Pieces in each warehouse. Asks one warehouse after the other."""
    ask = sync_to_async(pieces, thread_sensitive=False)
    return {warehouse: await ask(warehouse, product_id) for warehouse in WAREHOUSES}


def pieces(warehouse: str, product_id: int) -> int:
    """Pieces in one warehouse."""
    url = f"{settings.SUPPLIER_URL}/stock/{warehouse}/{product_id}"
    response = requests.get(url, timeout=TIMEOUT_SECONDS)
    response.raise_for_status()
    return response.json()["pieces"]
