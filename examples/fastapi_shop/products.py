"""Products: some endpoints run on the event loop, those that ask the database in worker threads."""

from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from fastapi_shop import supplier
from fastapi_shop.database import Database
from fastapi_shop.models import Product, load_baskets
from fastapi_shop.supplier import Supplier
from shop import baskets, prices

router = APIRouter()


class ProductOut(BaseModel):
    """One article."""

    model_config = ConfigDict(from_attributes=True)
    id: int
    name: str
    category: str
    price_cents: int


class ProductPage(ProductOut):
    """One article and what else was bought."""

    also_bought: list[ProductOut]


class Stock(BaseModel):
    """Pieces in each warehouse."""

    product: str
    stock: dict[str, int]


def find_product(product_id: int, database: Database) -> Product:
    """The product of the path."""
    if (found := database.get(Product, product_id)) is None:
        raise HTTPException(404, "no such product")
    return found


FoundProduct = Annotated[Product, Depends(find_product)]


@router.get("/")
def newest(database: Database) -> list[ProductOut]:
    """The newest products."""
    found = database.scalars(select(Product).order_by(Product.id.desc()).limit(24))
    return [ProductOut.model_validate(product) for product in found]


@router.get("/products/{product_id}")
def product(product: FoundProduct, database: Database) -> ProductPage:
    """One product with what else was bought."""
    close = baskets.also_bought(product.id, load_baskets(database))
    found = {other.id: other for other in database.scalars(select(Product).where(Product.id.in_(close)))}
    return ProductPage(
        **ProductOut.model_validate(product).model_dump(),
        also_bought=[ProductOut.model_validate(found[other]) for other in close],
    )


@router.get("/products/{product_id}/prices")
async def price_list(product: FoundProduct) -> dict[str, dict[int, Decimal]]:
    """What one piece costs by country and quantity. Worked out on the event loop: everybody else waits."""
    return {
        country: dict(prices.volume_prices(product.price_cents * (100 + vat) // 100))
        for country, vat in prices.VAT_PERCENT.items()
    }


@router.get("/products/{product_id}/availability")
async def availability(product: FoundProduct, client: Supplier) -> Stock:
    """Pieces in stock."""
    return Stock(product=product.name, stock=await supplier.stock(client, product.id))


@router.websocket("/stock")
async def watch_stock(connection: WebSocket, client: Supplier) -> None:
    """Answers each product id with the pieces in stock, as long as the visitor stays."""
    await connection.accept()
    try:
        while True:
            product_id = int(await connection.receive_text())
            await connection.send_json(
                {"product": product_id, "stock": await supplier.stock(client, product_id)}
            )
    except WebSocketDisconnect:
        return
