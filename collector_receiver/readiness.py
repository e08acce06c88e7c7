"""Whether requests have a chance at the moment: the database answers, and the receiver does not stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from profile_store.contracts import StoreUnavailable
from profile_store.ending import end

CHECK_SECONDS = 2.0  # between two checks, however often somebody asks
LIMIT_SECONDS = 4.0

logger = logging.getLogger("collector_receiver")


class Readiness:
    """Asks the database now and then and tells who wants to know. Used on the loop of the store.

    Ready from the start: the store was opened a moment ago.
    """

    def __init__(self, check: Callable[[], Awaitable[None]], tell: Callable[[bool], Awaitable[None]]) -> None:
        self._check = check
        self._tell = tell
        self._watching: asyncio.Task[None] | None = None
        self._stopped = False
        self.problem = ""
        """Why requests have no chance; "" when they have."""

    @property
    def ready(self) -> bool:
        return not self.problem

    def start(self) -> None:
        """Begin to ask; until `stop`."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Not ready any more, for good. Safe to call again."""
        self._stopped = True
        self.problem = "stopping"
        if self._watching is not None:
            await end(self._watching)

    async def _watch(self) -> None:
        while not self._stopped:
            await asyncio.sleep(CHECK_SECONDS)
            problem = await self._ask()
            if problem == self.problem or self._stopped:
                continue
            self.problem = problem
            if problem:
                logger.warning("not ready: %s", problem)
            else:
                logger.info("ready again")
            await self._tell(self.ready)

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await self._check()
        except (StoreUnavailable, TimeoutError):
            return "the database does not answer"
        return ""
