"""pyinstrument's sampler of one thread, with a cheaper hook and with samples that nobody notices."""

from __future__ import annotations

import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from pyinstrument.low_level.stat_profile import setstatprofile, walltime_coarse_resolution
from pyinstrument.stack_sampler import StackSampler, StackSamplerSubscriber

from otel_pyinstrument.guard import came_from_signal_handler

if TYPE_CHECKING:
    from pyinstrument.stack_sampler import StackSamplerSubscriberTarget

_CALLS_OF_A_SAMPLE = 24
_SHARE = 0.1
"""Of the interval that a sample may take. Of a stack of some thousand calls it would take all of it."""
_CHEAP_SECONDS = 2e-4
"""A sample of some hundred calls, which the shortest intervals that are asked for can bear."""


class ThreadSampler(StackSampler):
    """Asks for pyinstrument's context variable only while a subscriber is bound to its async context.

    The hook would ask for it at each call and return: of the instructions that it adds to a Flask page, a
    third. Subscribers of ours are never bound. This stands in the place of the thread's own sampler, so a
    `Profiler` of the user's subscribes here too, and gets the hook that it expects.
    """

    _asks_for_context = False
    _installed_interval = 0.0
    _paid_at = 0.0
    """When the dear samples so far have become their share of the time, by `time.perf_counter`."""

    def subscribe(
        self,
        target: StackSamplerSubscriberTarget,
        *,
        desired_interval: float,
        use_timing_thread: bool | None = None,
        use_async_context: bool,
    ) -> None:
        """As pyinstrument's. What an event loop does for each step, one subscriber alone, in few calls."""
        if (
            self.subscribers
            or use_async_context
            or use_timing_thread is not None
            or self.timer_func is not None
        ):
            super().subscribe(
                target,
                desired_interval=desired_interval,
                use_timing_thread=use_timing_thread,
                use_async_context=use_async_context,
            )
            return
        self.subscribers.append(
            StackSamplerSubscriber(
                target=target,
                desired_interval=desired_interval,
                bound_to_async_context=False,
                async_state=None,
            )
        )
        self._asks_for_context = False
        self._paid_at = 0.0
        self.current_sampling_interval = desired_interval
        self.last_profile_time = time.perf_counter()
        self._install(desired_interval)
        if not self.subscribers:  # a finalizer or a signal handler has ended it in the middle
            self._update()

    def unsubscribe(self, target: StackSamplerSubscriberTarget) -> None:
        """As pyinstrument's. One subscriber alone in few calls."""
        first, others = self.subscribers[:1], self.subscribers[1:]
        # After each call the handler of a signal may start a profiler here: none before this is settled.
        if first and not others and first[0].target == target and not first[0].bound_to_async_context:
            self.subscribers = []
            self.current_sampling_interval = None
            self.last_profile_time = 0.0
            setstatprofile(None)
        else:
            super().unsubscribe(target)

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
            self.last_profile_time = time.perf_counter()
        self._install(interval)

    def _install(self, interval: float) -> None:
        self._installed_interval = interval
        resolution = walltime_coarse_resolution()
        coarse = resolution is not None and resolution <= interval
        setstatprofile(self._sample, interval, timer_type="walltime_coarse" if coarse else "walltime")

    def _needs_context(self) -> bool:
        """Also where somebody wants another clock: what pyinstrument does then is its own affair."""
        return self.timer_func is not None or any(
            each.bound_to_async_context or each.use_timing_thread for each in self.subscribers
        )

    def _sample(self, frame: FrameType, event: str, arg: Any) -> None:
        """Called by the hook in the middle of the user's code, which must not feel it.

        No sample where the recursion limit is so near that it would be reached, or where something of the
        application raises that names a function or a thread: the time goes to the next one.
        """
        try:
            _require_calls(_CALLS_OF_A_SAMPLE)
        except RecursionError:
            return
        begun = time.thread_time()
        try:
            super()._sample(frame, event, arg)
            if not self.subscribers:
                self.last_profile_time = 0.0  # the last one has left in this sample, which has set it again
        except Exception as error:
            if came_from_signal_handler(error):
                raise
        self._bound_cost(time.thread_time() - begun)

    def _bound_cost(self, cost_seconds: float) -> None:
        """Samples that cost more than their share come more rarely, until they cost less or sampling ends.

        After a dear one the next waits until the dear ones before have become their share of the time, and
        not yet for this one: it may have been interrupted by a collection of garbage, and to wait for ten
        times that would leave some tenths of a second without a sample.
        """
        if self._asks_for_context or self.current_sampling_interval is None:
            return
        interval = self.current_sampling_interval
        due = cost_seconds / _SHARE
        if cost_seconds > _CHEAP_SECONDS and due > 2 * interval:
            now = time.perf_counter()
            interval = max(interval, min(due, self._paid_at - now))
            self._paid_at = max(self._paid_at, now) + due
        if not self._installed_interval / 2 <= interval <= self._installed_interval * 2:
            self._install(interval)


def _require_calls(count: int) -> None:
    """Raises RecursionError where fewer calls than that are left."""
    if count:
        _require_calls(count - 1)
