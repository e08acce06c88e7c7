"""Orders: a list, an invoice, a stream of all, and a confirmation that is written after the answer."""

import logging
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from fastapi_shop.database import Database, engine
from fastapi_shop.models import Order, load_baskets
from shop import baskets, prices

CSV_ROWS_PER_CHUNK = 250

logger = logging.getLogger("uvicorn.error")
router = APIRouter()


class OrderOut(BaseModel):
    """One order with its items as text."""

    id: int
    customer: str
    ordered_on: date
    items: list[str]
    total_cents: int


class Invoice(BaseModel):
    """One order and the average price of its pieces."""

    order: OrderOut
    average: Decimal


def summary(order: Order) -> OrderOut:
    """The order as it is shown. Its items are loaded here, once per order."""
    return OrderOut(
        id=order.id,
        customer=order.customer.name,
        ordered_on=order.ordered_on,
        items=[f"{item.quantity} × {item.product.name}" for item in order.items],
        total_cents=sum(item.quantity * item.product.price_cents for item in order.items),
    )


def find_order(order_id: int, database: Database) -> Order:
    """The order of the path."""
    if (found := database.get(Order, order_id)) is None:
        raise HTTPException(404, "no such order")
    return found


FoundOrder = Annotated[Order, Depends(find_order)]


@router.get("/orders")
def latest_orders(database: Database) -> list[OrderOut]:
    """The latest orders with their items."""
    found = database.scalars(select(Order).order_by(Order.ordered_on.desc(), Order.id.desc()).limit(100))
    return [summary(order) for order in found]


@router.get("/orders.csv")
async def all_orders() -> StreamingResponse:
    """All orders, streamed."""
    return StreamingResponse(csv_chunks(), media_type="text/csv")


def csv_chunks() -> Iterator[str]:
    """The lines of all orders, some hundred at a time."""
    with Session(engine) as session:
        found = session.scalars(select(Order).order_by(Order.id))
        for orders in found.partitions(CSV_ROWS_PER_CHUNK):
            yield "".join(f"{order.id},{order.ordered_on},{order.customer.name}\n" for order in orders)


@router.get("/orders/{order_id}/invoice")
def invoice(order: FoundOrder) -> Invoice:
    """The invoice of one order."""
    shown = summary(order)
    pieces = sum(item.quantity for item in order.items)
    return Invoice(order=shown, average=prices.average_piece_price(shown.total_cents, pieces))


@router.post("/orders/{order_id}/confirmation", status_code=202)
async def confirm(order: FoundOrder, tasks: BackgroundTasks) -> dict[str, str]:
    """Accepts at once; the confirmation is written afterwards."""
    tasks.add_task(write_confirmation, order.id)
    return {"status": "accepted"}


def write_confirmation(order_id: int) -> None:
    """Writes it to the log, with a recommendation for the first item."""
    with Session(engine) as session:
        order = session.get_one(Order, order_id)
        first = order.items[0].product_id if order.items else 1
        recommended = baskets.also_bought(first, load_baskets(session), limit=1)
    logger.info("order %s is confirmed; recommended: product %s", order_id, *recommended)
