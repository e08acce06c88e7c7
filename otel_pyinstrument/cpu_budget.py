"""The CPU time that profiling may cost this process: earned while the process works, spent by profiles."""

from __future__ import annotations

import time
from collections.abc import Callable

_BURST_SECONDS = 30.0
_START_SECONDS = 10.0
_IDLE_SHARE = 0.1


class CpuBudget:
    """A token bucket in seconds of CPU time. Not thread-safe: the gate holds its lock.

    It earns `share` of the CPU time that the process uses; a process that is busy for less than a tenth of
    the time earns as if it were. It holds what 30 busy seconds earn, so a burst is bounded, and starts with
    what 10 earn: mostly for the first profiles of new endpoints. Spending more than there is makes a debt
    that has to be earned first.
    """

    def __init__(
        self,
        share: float,
        *,
        process_seconds: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._process_seconds = process_seconds
        self._clock = clock
        self.capacity = share * _BURST_SECONDS
        self._balance = share * _START_SECONDS
        self._process_then = process_seconds()
        self._then = clock()

    @property
    def unlimited(self) -> bool:
        return self._share >= 1

    def balance(self) -> float:
        """Seconds that may be spent now; negative when in debt."""
        process_now, now = self._process_seconds(), self._clock()
        worked = max(process_now - self._process_then, _IDLE_SHARE * (now - self._then), 0.0)
        self._process_then, self._then = process_now, now
        self._balance = min(self._balance + self._share * worked, self.capacity)
        return self._balance

    def spend(self, seconds: float) -> None:
        self._balance -= seconds
