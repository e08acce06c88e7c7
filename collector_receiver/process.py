"""One process of the receiver: opens the store, serves, and says by its exit code how it went."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable

from collector_receiver.group import ALONE, Member
from collector_receiver.server import PortBusy, Stopping, serve
from collector_receiver.settings import InvalidSettings, ReceiverSettings
from profile_store import StoreSettings, open_store
from profile_store.contracts import InvalidStoreSettings, StoreError
from profile_store.ending import opened_unless

EXIT_SETTINGS = 2
EXIT_PORT_BUSY = 3
EXIT_NO_STORE = 4

logger = logging.getLogger("collector_receiver")


def run(settings: ReceiverSettings, store_settings: StoreSettings, member: Member = ALONE) -> int:
    """The exit code: 0 after a signal, else one of the above with one line on stderr."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(settings, store_settings, member))
    except (InvalidSettings, InvalidStoreSettings) as problem:
        return fail(str(problem), EXIT_SETTINGS)
    except PortBusy as problem:
        return fail(str(problem), EXIT_PORT_BUSY)
    except StoreError as problem:
        return fail(f"cannot open the store: {problem}", EXIT_NO_STORE)
    return 0


async def _run(settings: ReceiverSettings, store_settings: StoreSettings, member: Member) -> None:
    stopping = Stopping(member)
    async with opened_unless(stopping.asked, open_store(store_settings)) as store:
        if store is not None:
            await serve(store, settings, member, stopping)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: a small request costs the receiver a tenth less than with asyncio's own."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def configure_logging(settings: ReceiverSettings) -> None:
    """LOG_LEVEL is for our own lines only: at DEBUG the database driver would write whole documents."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logger.setLevel(settings.log_level)
    # It warns of every request that is no HTTP; anyone could fill the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def fail(message: str, code: int) -> int:
    """`code`, after the line that explains it."""
    sys.stderr.write(f"collector_receiver: {message}\n")
    return code
