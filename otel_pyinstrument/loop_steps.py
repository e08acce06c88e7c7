"""Around each step of a request's tasks on an event loop: the hook is there while the request runs, only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from logging import getLogger
from typing import Any, Protocol
from weakref import ref

from otel_pyinstrument import native
from otel_pyinstrument.guard import came_from_signal_handler

_logger = getLogger(__name__)
_ATTRIBUTE = "otel_pyinstrument_steps"
_EMPTY = Context()
_MANY_TASKS = 64
_TIMER_SLACK_SECONDS = 0.01
"""Loops round their timers to milliseconds, also down."""


class Stepped(Protocol):
    """What is told of the steps. Must not raise. On the loop's thread."""

    def resume(self) -> None:
        """A step of one of the request's tasks begins now."""
        ...

    def pause(self) -> None:
        """It has ended: the task waits, or is done."""
        ...

    def reach_limit(self) -> None:
        """The maximum duration is over."""
        ...


class LoopSteps:
    """Stands in the place of `call_soon` of one loop while requests are profiled there.

    A task asks its loop to call its next step with `call_soon`, which keeps the order. So a call before and
    a call after it enclose just this step. All methods run on the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._call_soon: Callable[..., asyncio.Handle] = loop.call_soon
        self._installed = False
        self._tasks: dict[int, tuple[asyncio.Task[Any], Stepped]] = {}
        self._owners: dict[int, tuple[Stepped, Callable[[Context], bool]]] = {}

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopSteps | None:
        """The one of `loop`; None when the loop is of a kind whose `call_soon` cannot be replaced."""
        steps = getattr(loop, _ATTRIBUTE, None)
        if steps is None:
            try:
                steps = cls(loop)
                setattr(loop, _ATTRIBUTE, steps)
            except AttributeError:
                return None
        return steps

    def follow(
        self,
        task: asyncio.Task[Any],
        stepped: Stepped,
        belongs: Callable[[Context], bool],
        max_duration_seconds: float,
    ) -> Callable[[], None]:
        """Tell `stepped` of the steps of the running `task`, and of the tasks whose context `belongs` to it.

        The result ends that, on any thread.
        """
        if not self._installed:
            self._call_soon = self._loop.call_soon
            self._loop.call_soon = self
            self._installed = True
        self._tasks[id(task)] = (task, stepped)
        self._owners[id(stepped)] = (stepped, belongs)
        self._call_soon(stepped.pause, context=_EMPTY)
        seconds = max_duration_seconds + _TIMER_SLACK_SECONDS
        limit = self._loop.call_later(seconds, _reach_limit, ref(stepped), context=_EMPTY)
        return partial(self._forget, stepped, limit, native.thread_id())

    def _forget(self, stepped: Stepped, limit: asyncio.TimerHandle, loops_thread: int) -> None:
        if native.thread_id() == loops_thread:
            limit.cancel()
        self._owners.pop(id(stepped), None)
        for key, (_, other) in list(self._tasks.items()):
            if other is stepped:
                self._tasks.pop(key, None)
        # The last one puts the loop back as it was. What somebody else has put around us meanwhile stays,
        # and we then only pass calls on.
        if not self._owners and vars(self._loop).get("call_soon") is self:
            del self._loop.call_soon
            self._installed = False

    def __call__(
        self, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """`call_soon` of the loop."""
        stepped = self._stepped_by(callback, context)
        if stepped is None:
            return self._call_soon(callback, *arguments, context=context)
        self._call_soon(stepped.resume, context=_EMPTY)
        handle = self._call_soon(callback, *arguments, context=context)
        self._call_soon(stepped.pause, context=_EMPTY)
        return handle

    def _stepped_by(self, callback: object, context: Context | None) -> Stepped | None:
        task: Any = getattr(callback, "__self__", None)
        known = self._tasks.get(id(task))
        if known is not None:
            return known[1]
        if not isinstance(task, asyncio.Task) or context is None:
            return None
        try:
            for stepped, belongs in self._owners.values():
                if belongs(context):
                    self._remember(task, stepped)
                    return stepped
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            _logger.debug("A task could not be told apart", exc_info=error)
        return None

    def _remember(self, task: Any, stepped: Stepped) -> None:
        if len(self._tasks) >= _MANY_TASKS:
            self._tasks = {key: known for key, known in self._tasks.items() if not known[0].done()}
        self._tasks[id(task)] = (task, stepped)


def _reach_limit(stepped: ref[Stepped]) -> None:
    # Weak: a request that ends on another thread cannot cancel the timer of the loop.
    found = stepped()
    if found is not None:
        found.reach_limit()
