"""The places of the requests that are profiled, and what their profiles cost."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from otel_pyinstrument.cost_estimate import CostEstimate
from otel_pyinstrument.cpu_budget import CpuBudget
from otel_pyinstrument.other_threads import OtherThreads
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.slot import EndedEarly, Reason, Slot

_MAX_WAITING_NODES = 40_000
"""Nodes of finished trees that may wait to be encoded: about 10 MB. More pile up when export is stuck."""


class Slots:
    """A bounded number of them, and a budget of CPU time. Not thread-safe: the gate holds its lock.

    Slots and trees that are dropped without a word give their place back: plain weak references tell. A
    finalizer would run Python at any moment of the application, and swallow the exception that a signal
    handler (a worker's timeout) raises at that moment.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        thread_seconds: Callable[[], float],
        process_seconds: Callable[[], float],
        standing_seconds: Callable[[], float],
        clock: Callable[[], float],
        other_threads: OtherThreads,
    ) -> None:
        self._max_concurrent = settings.max_concurrent
        self._max_duration = settings.max_duration
        self._thread_seconds = thread_seconds
        self._clock = clock
        self._other_threads = other_threads
        self._slots: list[weakref.ref[Slot]] = []
        # Strong: they are charged although their spans may be dropped. Appended to without the lock.
        self._ended_early: list[EndedEarly] = []
        self._waiting: list[tuple[weakref.ref[object], int]] = []
        self._budget = CpuBudget(
            settings.cpu_budget,
            process_seconds=process_seconds,
            standing_seconds=standing_seconds,
            clock=clock,
        )
        self._estimate = CostEstimate()
        self.taken = 0
        """How many there ever were."""
        self.hook_seconds = self.encoding_seconds = 0.0
        """CPU time that is charged so far."""
        other_threads.take()  # what was before is not ours to pay

    def obstacle(self, floor: float) -> str | None:
        """Why there is no place for another one that must leave the share `floor` of a full budget."""
        self.charge_ended_early()
        # A thread that blocks notices no limit: its hook stays until it runs again, its place does not.
        now = self._clock()
        held = [slot for slot in self.held() if now - slot.began < self._max_duration]
        if len(held) >= self._max_concurrent:
            return "concurrency"
        self._waiting = [waiting for waiting in self._waiting if waiting[0]() is not None]
        if sum(nodes for _, nodes in self._waiting) >= _MAX_WAITING_NODES:
            return "backlog"
        if not self._budget.unlimited:
            reserved = sum(slot.reserved_seconds for slot in held)
            if self._budget.balance() - reserved <= floor * self._budget.capacity:
                return "budget"
        return None

    def take(self, reason: Reason) -> Slot:
        """A place on the running thread, where there is no obstacle."""
        slot = Slot(
            reason,
            began=self._clock(),
            reserved_seconds=self._estimate.usual_cost_seconds,
            thread_seconds=self._thread_seconds,
            ended_early=self._ended_early,
        )
        self.taken += 1
        self._slots.append(weakref.ref(slot))
        return slot

    def held(self) -> list[Slot]:
        """Those that are taken now."""
        if not self._slots:
            return []
        held = [slot for slot in (reference() for reference in self._slots) if slot is not None and slot.held]
        self._slots = [weakref.ref(slot) for slot in held]
        return held

    def begin_hook(self, slot: Slot) -> None:
        """See `Gate.begin_hook`."""
        self.charge_ended_early()
        if not slot.held:
            return  # gone again already
        others_here = any(other.holds_thread and other.thread == slot.thread for other in self.held())
        slot.holds_thread = True
        self._estimate.hook_begins(slot.thread, slot.cpu_start, others_here=others_here)

    def settle(
        self,
        slot: Slot,
        *,
        hooked_seconds: float,
        switching_seconds: float,
        elsewhere_seconds: float,
        own_seconds: float | None,
        usual_seconds: float | None,
    ) -> float:
        """At the end of its request, when it is released: what the profile cost in CPU seconds.

        `own_seconds`: CPU time of the request, if that can be compared with the `usual_seconds` of its
        endpoint. The others are those of `Gate.leave`.
        """
        self.charge_ended_early(leaving=slot)
        if slot.holds_thread:
            hooked_seconds = max(self._end_hook(slot), own_seconds or 0.0) + elsewhere_seconds
        if own_seconds is not None and usual_seconds is not None:
            self._estimate.compare(own_seconds, usual_seconds)
        self._charge(slot, hooked_seconds, switching_seconds)
        self._estimate.learn_usual(slot.cost_seconds)
        return slot.cost_seconds

    def hold(self, recording: object, node_count: int) -> None:
        """See `Gate.hold`."""
        self._waiting.append((weakref.ref(recording), node_count))

    def charge_encoding(self, cpu_seconds: float) -> None:
        """See `Gate.charge_encoding`."""
        self.encoding_seconds += cpu_seconds
        self._budget.spend(cpu_seconds)

    def charge_ended_early(self, leaving: Slot | None = None) -> None:
        """`leaving` is released and charged next: until its end its thread had a hook."""
        while self._ended_early:
            slot, hooked_seconds, switching_seconds = self._ended_early.pop(0)
            if slot.holds_thread:
                hooked_seconds = self._end_hook(slot, leaving)
            self._charge(slot, hooked_seconds, switching_seconds)

    def _end_hook(self, slot: Slot, leaving: Slot | None = None) -> float:
        """CPU seconds of its thread under the hook, that no other profile has told of."""
        if slot.covered_seconds is None:
            later = [*self.held(), *(ended.slot for ended in self._ended_early)]
            if leaving is not None and leaving is not slot and leaving.covered_seconds is None:
                later.append(leaving)
            slot.covered_seconds = self._estimate.hook_ends(
                slot.thread,
                slot.cpu_end,
                others_here=any(other.thread == slot.thread and other.holds_thread for other in later),
            )
        return slot.covered_seconds

    def _charge(self, slot: Slot, hooked_seconds: float, switching_seconds: float) -> None:
        """Charge what has been added since the last time."""
        more_seconds = max(hooked_seconds - slot.hooked_seconds, 0.0)
        cost = self._estimate.cost_of(more_seconds, self._other_threads.take(), held_thread=slot.holds_thread)
        cost += max(switching_seconds - slot.switching_seconds, 0.0)
        slot.hooked_seconds += more_seconds
        slot.switching_seconds = switching_seconds
        slot.cost_seconds += cost
        self.hook_seconds += cost
        self._budget.spend(cost)
