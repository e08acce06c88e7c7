"""What the supplier has in stock, asked over HTTP."""

from typing import Annotated

import httpx
from fastapi import Depends
from fastapi.requests import HTTPConnection

WAREHOUSES = ("north", "south", "west")


def client(connection: HTTPConnection) -> httpx.AsyncClient:
    """The process's client, for requests and websockets."""
    return connection.state.supplier


Supplier = Annotated[httpx.AsyncClient, Depends(client)]


async def stock(supplier: httpx.AsyncClient, product_id: int) -> dict[str, int]:
    """Pieces in each warehouse. Asks one warehouse after the other."""
    return {warehouse: await pieces(supplier, warehouse, product_id) for warehouse in WAREHOUSES}


async def pieces(supplier: httpx.AsyncClient, warehouse: str, product_id: int) -> int:
    """Pieces in one warehouse."""
    response = await supplier.get(f"/stock/{warehouse}/{product_id}")
    response.raise_for_status()
    return response.json()["pieces"]
