"""Ctrl-C and SIGTERM as a wish that the main loop looks at, never an exception in the middle of something."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

POLL_SECONDS = 0.1
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopWanted(Exception):
    """Somebody asked for the end while we waited for something else."""


class Interrupts:
    """Counts stop signals: the first asks for a clean stop, the second for an immediate one."""

    def __init__(self) -> None:
        """Nothing was asked for yet; the signals still have their old meaning."""
        self._count = 0
        self._on_kill: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Take over the stop signals of this process, from its main thread, until it ends."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    @property
    def stop_wanted(self) -> bool:
        """After the first signal."""
        return self._count > 0

    @property
    def kill_wanted(self) -> bool:
        """After the second."""
        return self._count > 1

    def on_kill(self, action: Callable[[], None]) -> None:
        """Call `action` inside the handler of the second signal, where the main loop is blocked."""
        self._on_kill = action

    def wait_until(self, condition: Callable[[], bool], *, limit_seconds: float) -> bool:
        """Whether the condition came true in time.

        Raises:
            StopWanted: a stop signal came first.
        """
        deadline = time.monotonic() + limit_seconds
        while not condition():
            if self.stop_wanted:
                raise StopWanted
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self.kill_wanted:
            self._on_kill()
