"""The loop that finishes deletions and changes of retention, in a process that keeps a store open."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from profile_store.contracts import Administration, StoreUnavailable
from profile_store.ending import end

EVERY_SECONDS = 30.0
_PAUSE_PER_STEP = 2.0
"""A step of 10,000 documents keeps the database busy for some tenths of a second; others come first."""

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def upkeep_running(store: Administration, every_seconds: float = EVERY_SECONDS) -> AsyncGenerator[None]:
    """Keep the store tidy as long as the block runs; several processes may do so at once.

    While there is work, a step of at most 10,000 documents is followed by a pause of twice its time.
    """
    task = asyncio.create_task(_keep_tidy(store, every_seconds))
    try:
        yield
    finally:
        await end(task)


async def _keep_tidy(store: Administration, every_seconds: float) -> None:
    while True:
        pause = every_seconds
        started = time.monotonic()
        try:
            step = await store.upkeep()
        except StoreUnavailable as problem:
            _logger.debug("upkeep waits: %s", problem)
        except Exception:
            # A mistake of ours: it must not end the loop in silence.
            _logger.exception("upkeep failed; it is tried again in %.0f s", every_seconds)
        else:
            if step.removed_documents or step.changed_documents:
                _logger.info(
                    "upkeep: %d documents of deleted projects removed, the expiry of %d changed",
                    step.removed_documents,
                    step.changed_documents,
                )
            if not step.is_finished:
                pause = min(every_seconds, _PAUSE_PER_STEP * (time.monotonic() - started))
        await asyncio.sleep(pause)
