"""The ASGI application. Run it from `examples/`: `uvicorn fastapi_shop.app:app`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from fastapi_shop import database, orders, products
from fastapi_shop.timing import ServerTiming
from shop import data
from shop.timing import wanted

SUPPLIER_URL = os.environ.get("SUPPLIER_URL", "http://127.0.0.1:8081")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
    """Make and fill the database when it is not there yet; one HTTP client for the whole process."""
    data.prepare(database.PATH)
    async with httpx.AsyncClient(base_url=SUPPLIER_URL, timeout=5, trust_env=False) as client:
        yield {"supplier": client}
    database.engine.dispose()


app = FastAPI(title="Shop", lifespan=lifespan)
app.include_router(products.router)
app.include_router(orders.router)
if wanted():
    app.add_middleware(ServerTiming)


@app.get("/health")
async def health() -> dict[str, str]:
    """Whether the shop answers."""
    return {"status": "ok"}
