"""Which requests are profiled. The hook about doubles the CPU time of a request: the gate is the cost."""

from __future__ import annotations

import itertools
import random
import threading
import weakref

_MAX_WAITING_NODES = 40_000
"""Nodes of finished trees that may wait to be encoded: about 10 MB. More pile up when export is stuck."""


class Gate:
    """Admits a share of all requests, a bounded number at a time, and none while finished trees pile up.

    Callable from any thread. Slots and trees that are dropped without a word give their place back.
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
        self._tokens = itertools.count()
        # Plain containers with atomic add and remove, because finalizers change them at any moment.
        self._active: set[int] = set()
        self._waiting: dict[int, int] = {}

    def admit(self, *, forced: bool = False) -> Slot | None:
        """A slot for one request, to be released at its end; None when it is not to be profiled.

        `forced`: the application asked for this profile, so the share of requests does not matter.
        """
        if not forced and self._rate < 1 and self._random.random() >= self._rate:
            return None
        with self._lock:
            if len(self._active) >= self._max_concurrent:
                return None
            if sum(list(self._waiting.values())) >= _MAX_WAITING_NODES:
                return None
            token = next(self._tokens)
            self._active.add(token)
        return Slot(self._active, token)

    def hold(self, recording: object, node_count: int) -> None:
        """Count the nodes of `recording` as waiting until nothing refers to it any more."""
        token = next(self._tokens)
        self._waiting[token] = node_count
        weakref.finalize(recording, self._waiting.pop, token, None).atexit = False


class Slot:
    """The place of one profiled request. Gone when released or garbage collected."""

    __slots__ = ("_active", "_token")

    def __init__(self, active: set[int], token: int) -> None:
        self._active = active
        self._token = token

    def release(self) -> None:
        self._active.discard(self._token)

    def __del__(self) -> None:
        self.release()
