"""Which requests are profiled. The hook about doubles the CPU time of a request: the gate is the cost."""

from __future__ import annotations

import random
import threading
import weakref

_MAX_WAITING_NODES = 40_000
"""Nodes of finished trees that may wait to be encoded: about 10 MB. More pile up when export is stuck."""


class Gate:
    """Admits a share of all requests, a bounded number at a time, and none while finished trees pile up.

    Callable from any thread. Slots and trees that are dropped without a word give their place back:
    plain weak references tell. A finalizer would run Python at any moment of the application, and swallow
    the exception that a signal handler (a worker's timeout) raises at that moment.
    """

    def __init__(self, *, rate: float, max_concurrent: int) -> None:
        self._rate = rate
        self._max_concurrent = max_concurrent
        self.reset()

    def reset(self) -> None:
        """Forget all slots and draw new random numbers: a forked child starts with its own gate."""
        # An own generator: drawing from the shared one would change the numbers of a seeded application.
        self._random = random.Random()  # noqa: S311 - sampling, not secrets
        self._lock = threading.RLock()
        self._slots: list[weakref.ref[Slot]] = []
        self._waiting: list[tuple[weakref.ref[object], int]] = []

    def admit(self, *, forced: bool = False) -> Slot | None:
        """A slot for one request, to be released at its end; None when it is not to be profiled.

        `forced`: the application asked for this profile, so the share of requests does not matter.
        """
        if not forced and self._rate < 1 and self._random.random() >= self._rate:
            return None
        with self._lock:
            self._slots = [slot for slot in self._slots if _is_held(slot())]
            if len(self._slots) >= self._max_concurrent:
                return None
            self._waiting = [waiting for waiting in self._waiting if waiting[0]() is not None]
            if sum(nodes for _, nodes in self._waiting) >= _MAX_WAITING_NODES:
                return None
            slot = Slot()
            self._slots.append(weakref.ref(slot))
        return slot

    def hold(self, recording: object, node_count: int) -> None:
        """Count the nodes of `recording` as waiting until nothing refers to it any more."""
        with self._lock:
            self._waiting.append((weakref.ref(recording), node_count))


class Slot:
    """The place of one profiled request. Gone when released or garbage collected."""

    __slots__ = ("__weakref__", "held")

    def __init__(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False


def _is_held(slot: Slot | None) -> bool:
    return slot is not None and slot.held
