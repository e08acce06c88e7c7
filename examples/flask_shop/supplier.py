"""What the supplier has in stock, asked over HTTP."""

import requests

WAREHOUSES = ("north", "south", "west")
TIMEOUT_SECONDS = 5


def stock(supplier_url: str, product_id: int) -> dict[str, int]:
    """Pieces in each warehouse. Asks one warehouse after the other."""
    return {warehouse: _pieces(supplier_url, warehouse, product_id) for warehouse in WAREHOUSES}


def _pieces(supplier_url: str, warehouse: str, product_id: int) -> int:
    response = requests.get(f"{supplier_url}/stock/{warehouse}/{product_id}", timeout=TIMEOUT_SECONDS)
    response.raise_for_status()
    return response.json()["pieces"]
