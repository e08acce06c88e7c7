"""Ends what uses the driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar

Opened = TypeVar("Opened")

_AGAIN_SECONDS = 1.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` until all have ended, however they end. On their loop.

    More than once: a cancellation that comes while the driver connects anew is lost.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_SECONDS)


@asynccontextmanager
async def opened_unless(
    stopping: asyncio.Event, opening: AbstractAsyncContextManager[Opened]
) -> AsyncGenerator[Opened | None]:
    """What `opening` gives; None when `stopping` was set before it was there, and then nothing is open."""
    async with AsyncExitStack() as stack:
        entering = asyncio.create_task(stack.enter_async_context(opening))
        asked = asyncio.create_task(stopping.wait())
        await asyncio.wait({entering, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if entering.done():
            yield entering.result()
            return
        await end(entering)
        with suppress(asyncio.CancelledError, Exception):
            entering.result()
        yield None
