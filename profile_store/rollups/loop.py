"""Keeps statistics up to date for as long as a process runs, without getting in anybody's way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from profile_store.contracts import Maintainer, StoreError, StoreUnavailable
from profile_store.ending import end

IDLE_SECONDS = 5.0
"""Between two steps when there is nothing to do."""

PAUSE_PER_WORK = 3.0
"""A step that took a second is followed by so many seconds of rest: a slow database gets more of it."""

MINUTES_PER_STEP = 20

_RETRY_SECONDS = 10.0

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def rolling_up(store: Maintainer) -> AsyncGenerator[None]:
    """Roll up inside this block, on this event loop. Leaving it cancels a step, which is done again later."""
    task = asyncio.create_task(keep_rolled_up(store), name="rollups")
    try:
        yield
    finally:
        await end(task)


async def keep_rolled_up(store: Maintainer) -> None:
    """Work until cancelled. Trouble is logged when it begins and when it ends, and never ends the work."""
    failing = looked_for_missing = False
    while True:
        began = time.monotonic()
        try:
            if not looked_for_missing:
                missing = await store.request_missing_roll_ups()
                looked_for_missing = True
                if missing:
                    _logger.info("statistics of %d older minutes are being computed", missing)
            step = await store.roll_up(max_minutes=MINUTES_PER_STEP)
        except StoreUnavailable as error:
            if not failing:
                _logger.warning("statistics wait: %s", error)
            failing = True
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        except Exception:
            # A mistake of ours must not leave statistics behind until the next restart.
            if not failing:
                _logger.exception("statistics wait: an unexpected error")
            failing = True
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        if step.failures:
            for failure in step.failures:
                _logger.warning(
                    "statistics of project %s wait for %s, others go on: %s",
                    failure.project_id,
                    failure.what,
                    failure.error,
                    exc_info=None if isinstance(failure.error, StoreError) else failure.error,
                )
            failing = True
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        if failing:
            _logger.warning("statistics are being computed again")
        failing = False
        rest = PAUSE_PER_WORK * (time.monotonic() - began)
        await asyncio.sleep(rest if step.waiting else max(rest, IDLE_SECONDS))
