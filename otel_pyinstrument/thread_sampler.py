"""pyinstrument's sampler of one thread, with a cheaper hook while nobody there profiles an async context."""

from __future__ import annotations

from pyinstrument.low_level.stat_profile import setstatprofile, walltime_coarse_resolution
from pyinstrument.stack_sampler import StackSampler


class ThreadSampler(StackSampler):
    """Asks for pyinstrument's context variable only while a subscriber is bound to its async context.

    The hook would ask for it at each call and return: of the instructions that it adds to a Flask page, a
    third. Subscribers of ours are never bound. This stands in the place of the thread's own sampler, so a
    `Profiler` of the user's subscribes here too, and gets the hook that it expects.
    """

    _asks_for_context = False

    def _update(self) -> None:
        if not self._asks_for_context and self._needs_context():
            self.current_sampling_interval = None  # so that sampling begins anew, whatever the interval
        super()._update()

    def _start_sampling(self, interval: float, use_timing_thread: bool) -> None:
        self._asks_for_context = self._needs_context()
        if self._asks_for_context:
            super()._start_sampling(interval=interval, use_timing_thread=use_timing_thread)
            return
        self.current_sampling_interval = interval
        if self.last_profile_time == 0.0:
            self.last_profile_time = self._timer()
        resolution = walltime_coarse_resolution()
        coarse = resolution is not None and resolution <= interval
        setstatprofile(self._sample, interval, timer_type="walltime_coarse" if coarse else "walltime")

    def _needs_context(self) -> bool:
        """Also where somebody wants another clock: what pyinstrument does then is its own affair."""
        return self.timer_func is not None or any(
            each.bound_to_async_context or each.use_timing_thread for each in self.subscribers
        )
