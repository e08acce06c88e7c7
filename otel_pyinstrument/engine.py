"""Opens segments where they can be told apart from other work, and knows those that are open."""

from __future__ import annotations

import sys
import weakref

from otel_pyinstrument import private_names
from otel_pyinstrument.segment import Segment
from otel_pyinstrument.settings import Settings


class Engine:
    """One per instrumented provider. `open` on the request's thread, the rest on any."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: weakref.WeakSet[Segment] = weakref.WeakSet()

    def open(self) -> Segment | None:
        """Start sampling the calling thread; None when that would be wrong or disturb another profiler."""
        if not _thread_belongs_to_one_request() or not private_names.hook_is_ours_to_share():
            return None
        segment = Segment(
            interval_seconds=self._settings.interval_seconds,
            max_duration_seconds=self._settings.max_duration,
        )
        self._open.add(segment)
        segment.open()
        return segment

    def stop_all(self) -> None:
        """End all sampling and lose what was recorded. Also in a forked child: the parent goes on."""
        segments, self._open = self._open, weakref.WeakSet()
        for segment in list(segments):
            segment.stop()


def _thread_belongs_to_one_request() -> bool:
    """Whether all that runs on this thread until the request ends belongs to the request.

    Not on an event loop or in a greenlet: there other requests take turns on the same thread.
    """
    if "asyncio" in sys.modules:
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            return False
    if "greenlet" in sys.modules:
        import greenlet

        return greenlet.getcurrent().parent is None
    return True
