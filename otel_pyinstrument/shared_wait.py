"""The clock of work that a request's tasks wait for elsewhere: each moment of a wait is given away once."""

from __future__ import annotations

from collections.abc import Callable

from otel_pyinstrument import native


class SharedWait:
    """What hops have of the time that one unit waits, in seconds. Any thread.

    It goes on while the unit waits, at an equal share for each hop that runs at that time. So what they have
    sums to the wait, and what ran alone has all of it, whatever ran side by side before.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: that of the unit, in seconds."""
        self._clock = clock
        # Reentrant: a sample may ask for the time in the middle of a change on the same thread.
        self._lock = native.RLock()
        self._waits = False
        self._hops = 0
        self._known_at = clock()
        self._seconds = 0.0

    def seconds(self) -> float:
        """The clock of the hops."""
        with self._lock:
            self._go_on(self._clock())
            return self._seconds

    def begin_hop(self) -> None:
        with self._lock:
            self._go_on(self._clock())
            self._hops += 1

    def end_hop(self) -> None:
        with self._lock:
            self._go_on(self._clock())
            self._hops -= 1

    def set_waits(self, waits: bool, now: float) -> None:
        """The unit waits or not since `now`, by its clock."""
        with self._lock:
            self._go_on(now)
            self._waits = waits

    def _go_on(self, now: float) -> None:
        if now > self._known_at:
            if self._waits and self._hops > 0:
                self._seconds += (now - self._known_at) / self._hops
            self._known_at = now
