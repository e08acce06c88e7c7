"""The place of one profiled request among those that are profiled at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from otel_pyinstrument import native

Reason = Literal["rate", "slow", "error", "rule", "forced"]


class EndedEarly(NamedTuple):
    """Sampling has ended, the request goes on: CPU seconds under the hook, and of switching it."""

    slot: Slot
    hooked_seconds: float
    switching_seconds: float


class Slot:
    """The place of one profiled request, from its thread. Gone when released or garbage collected.

    `began` is by the gate's clock, `ended_early` the gate's list of those to be charged.
    """

    __slots__ = (
        "__weakref__",
        "_ended_early",
        "_thread_seconds",
        "began",
        "cost_seconds",
        "covered_seconds",
        "cpu_end",
        "cpu_start",
        "held",
        "holds_thread",
        "hooked_seconds",
        "reason",
        "reserved_seconds",
        "switching_seconds",
        "thread",
    )

    def __init__(
        self,
        reason: Reason,
        *,
        began: float,
        reserved_seconds: float,
        thread_seconds: Callable[[], float],
        ended_early: list[EndedEarly],
    ) -> None:
        self.held = True
        self.holds_thread = False
        self.reason: Reason = reason
        self.began = began
        self.reserved_seconds = reserved_seconds
        self.thread = native.thread_id()
        self._thread_seconds = thread_seconds
        self._ended_early = ended_early
        self.cpu_start = self.cpu_end = thread_seconds()
        self.covered_seconds: float | None = None
        """What the thread used under hooks, once the estimate has been asked."""
        self.hooked_seconds = self.switching_seconds = self.cost_seconds = 0.0
        """Charged so far, and what that costs."""

    def release(self, sampled_cpu_seconds: float | None = None) -> None:
        """`sampled_cpu_seconds`: CPU time under the hook, for when the caller is on another thread."""
        if not self.held:
            return
        self.held = False
        if native.thread_id() == self.thread:
            self.cpu_end = self._thread_seconds()
        elif sampled_cpu_seconds is not None:
            self.cpu_end = self.cpu_start + sampled_cpu_seconds

    def end_early(self, hooked_seconds: float, switching_seconds: float) -> None:
        """Release, and charge when the gate looks next: here, under the hook, nobody is waited for."""
        if self.held:
            self.release(hooked_seconds)
            self._ended_early.append(EndedEarly(self, hooked_seconds, switching_seconds))
