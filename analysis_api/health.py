"""Liveness and readiness, at the root of the server where orchestrators look for them."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from analysis_api.answers import success
from profile_store.contracts import Store, StoreUnavailable

# Below the patience of usual probes, so that they see an answer instead of silence.
_CHECK_SECONDS = 2.0


def health_routes(store: Store) -> list[Route]:
    """GET /health: the process lives. GET /ready: it can do its work, or 503."""

    async def health(request: Request) -> Response:
        return success({"status": "alive"})

    async def ready(request: Request) -> Response:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await store.check()
        except TimeoutError as raised:
            raise StoreUnavailable("the database did not answer in time") from raised
        return success({"status": "ready"})

    return [Route("/health", health), Route("/ready", ready)]
