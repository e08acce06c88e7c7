"""A greenlet, which takes turns with others on one thread (gevent), or the plain thread around helpers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import greenlet

from otel_pyinstrument.classification import AWAIT, AlwaysItsTurn, Place
from otel_pyinstrument.classification.frame_chains import calls_up_to, running_calls
from otel_pyinstrument.private_names import frame_identifiers


class GreenletClassifier(AlwaysItsTurn):
    """Told apart by identity. A greenlet that ours has started and waits for (its child) works for it.

    In gevent the parent of every greenlet is the hub, so requests are never below each other.
    """

    def __init__(self) -> None:
        current: Any = greenlet.getcurrent()
        self._greenlet = weak_greenlet(current)
        self._has_parent = current.parent is not None

    @property
    def shares_thread(self) -> bool:
        return self._has_parent

    def place(self, stack: list[str]) -> Place:
        whole = stack_from(self._greenlet(), stack)
        if whole is not None:
            return Place(whole[1:], True)
        return Place([*frame_identifiers(self.calls()), AWAIT], False)

    def calls(self) -> list[FrameType]:
        if self.is_running():
            return running_calls()
        home = self._greenlet()
        return [] if home is None else calls_up_to(home.gr_frame)

    def is_running(self) -> bool:
        return greenlet.getcurrent() is self._greenlet()


def weak_greenlet(current: Any) -> Callable[[], Any]:
    """Tells the greenlet, or None once it is gone.

    Weak for the safety of the process: a reference that outlives the greenlet's thread, in a cycle with a
    finished request, lets the garbage collector visit a greenlet that is freed already (greenlet 3.5).
    """
    return weakref.ref(current)


def stack_from(home: Any, stack: list[str]) -> list[str] | None:
    """`stack` of the running greenlet with the calls of those around it, as far as the greenlet `home`.

    None when `home` does not wait for what is running, or is gone.
    """
    if home is None:
        return None
    current: Any = greenlet.getcurrent()
    if current is home:
        return stack
    outer: list[FrameType] = []
    while current is not home:
        current = current.parent
        if current is None:
            return None
        outer[:0] = calls_up_to(current.gr_frame)
    return [stack[0], *frame_identifiers(outer), *stack[1:]]
