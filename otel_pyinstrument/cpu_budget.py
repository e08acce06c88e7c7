"""The CPU time that profiling may cost this process: earned while the process works, spent on profiling."""

from __future__ import annotations

import time
from collections.abc import Callable

_BURST_SECONDS = 30.0
_START_SECONDS = 10.0
_IDLE_SHARE = 0.1
_PROFILES_SHARE = 0.5


class CpuBudget:
    """A token bucket in seconds of CPU time. Not thread-safe: the gate holds its lock.

    It earns `share` of the CPU time that the process uses; a process that is busy for less than a tenth of
    the time earns as if it were. The standing cost of profiling is paid from that at once, with no more than
    half of it: there are profiles wherever it is above zero. It holds what 30 busy seconds earn, so a burst
    is bounded, and starts with what 10 earn: mostly for the first profiles of new endpoints. Spending more
    than there is makes a debt that has to be earned first.
    """

    def __init__(
        self,
        share: float,
        *,
        process_seconds: Callable[[], float] = time.process_time,
        standing_seconds: Callable[[], float] = float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`standing_seconds`: what all requests so far have paid because profiling is on."""
        self._share = share
        self._process_seconds = process_seconds
        self._standing_seconds = standing_seconds
        self._clock = clock
        self.capacity = share * _BURST_SECONDS
        self._balance = share * _START_SECONDS
        self._process_then = process_seconds()
        self._standing_then = standing_seconds()
        self._then = clock()

    @property
    def unlimited(self) -> bool:
        return self._share >= 1

    def balance(self) -> float:
        """Seconds that may be spent now; negative when in debt."""
        process_now, standing_now, now = self._process_seconds(), self._standing_seconds(), self._clock()
        worked = max(process_now - self._process_then, _IDLE_SHARE * (now - self._then), 0.0)
        earned = self._share * worked
        for_profiles = max(earned - (standing_now - self._standing_then), _PROFILES_SHARE * earned)
        self._process_then, self._standing_then, self._then = process_now, standing_now, now
        self._balance = min(self._balance + for_profiles, self.capacity)
        return self._balance

    def spend(self, seconds: float) -> None:
        self._balance -= seconds
