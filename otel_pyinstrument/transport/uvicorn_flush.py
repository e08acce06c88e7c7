"""Exports what is queued before uvicorn ends by SIGTERM.

After its graceful shutdown uvicorn raises the signal again with the default handler. So the process ends
as its parent expects, but no exit handler runs, and the SDK's queue of the last seconds would be lost.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from logging import getLogger
from typing import Any

from wrapt import when_imported

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.transport.private_names import ends_by_sigterm

_logger = getLogger(__name__)

_MODULE = "uvicorn.server"
_POLL_SECONDS = 0.02


class UvicornFlush:
    """While installed, every `uvicorn.Server.shutdown` before SIGTERM runs `flush`, for a bounded time."""

    def __init__(self, flush: Callable[[], object], *, limit_seconds: float) -> None:
        self._flush = flush
        self._limit_seconds = limit_seconds
        self._installed = False
        self._restore: Callable[[], None] | None = None

    def install(self) -> None:
        """Now, or when uvicorn is imported. Imports nothing."""
        self._installed = True
        if (module := sys.modules.get(_MODULE)) is not None:
            self._wrap(module)
        else:
            when_imported(_MODULE)(self._wrap)

    def uninstall(self) -> None:
        self._installed = False
        restore, self._restore = self._restore, None
        if restore is not None:
            restore()

    def _wrap(self, module: Any) -> None:
        try:
            if self._installed:
                self._wrap_server(module.Server)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            _logger.warning("Spans of the last seconds before SIGTERM may be lost", exc_info=True)

    def _wrap_server(self, server_class: Any) -> None:
        original = server_class.shutdown

        @wraps(original)
        async def shutdown(server: Any, *arguments: Any, **named: Any) -> Any:
            try:
                return await original(server, *arguments, **named)
            finally:
                if self._installed and ends_by_sigterm(server):
                    await self._flush_in_thread(server)

        def restore() -> None:
            if server_class.shutdown is shutdown:
                server_class.shutdown = original

        server_class.shutdown = shutdown
        self._restore = restore

    async def _flush_in_thread(self, server: Any) -> None:
        """A second signal to uvicorn ends the wait as it ends uvicorn's own."""
        import asyncio  # loaded by uvicorn, and by nobody who does not need it

        try:
            # A daemon: nothing waits for it when the limit has passed.
            thread = threading.Thread(target=self._flush_quietly, name="otel-pyinstrument-flush", daemon=True)
            thread.start()
            end = time.monotonic() + self._limit_seconds
            while thread.is_alive() and time.monotonic() < end and not getattr(server, "force_exit", False):
                await asyncio.sleep(_POLL_SECONDS)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            _logger.debug("Flushing before SIGTERM failed", exc_info=True)

    def _flush_quietly(self) -> None:
        try:
            self._flush()
        except Exception:
            _logger.debug("Flushing before SIGTERM failed", exc_info=True)
