"""Around each step of a request's tasks on an event loop: the hook is there while the request runs, only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context
from functools import cache, partial
from inspect import CORO_CREATED, getcoroutinestate
from logging import getLogger
from types import CoroutineType
from typing import Any, NamedTuple, Protocol, cast
from weakref import ref

from opentelemetry.trace import Span, get_current_span

from otel_pyinstrument import native
from otel_pyinstrument.guard import came_from_signal_handler

_logger = getLogger(__name__)
_FOLLOWER = "otel_pyinstrument_follower"
"""The attribute of a task of a request that says, weakly, who is told of its steps."""
_TIMER_SLACK_SECONDS = 0.01
"""Loops round their timers to milliseconds, also down."""


class Stepped(Protocol):
    """What is told of the steps. Must not raise. On the loop's thread."""

    @property
    def is_open(self) -> bool:
        """Whether it still wants to be told."""
        ...

    def resume(self) -> None:
        """A step of one of the request's tasks begins now."""
        ...

    def pause(self) -> None:
        """It has ended: the task waits, or is done."""
        ...

    def reach_limit(self) -> None:
        """The maximum duration is over."""
        ...


class _Followed(NamedTuple):
    task: asyncio.Task[Any]
    belongs: Callable[[Span], bool]


def can_be_followed(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether attributes of `loop` can be set as usual, and tasks say whose step they ask for."""
    return (
        hasattr(loop, "__dict__")
        and type(loop).__setattr__ is object.__setattr__
        and steps_can_be_told_apart()
    )


@cache
def steps_can_be_told_apart() -> bool:
    """Whether tasks say whose step they ask for, as CPython's do without a promise. Warns once if not."""
    asked = _AskedLoop()
    work = _nothing()
    try:
        task: object = asyncio.Task(work, loop=cast("asyncio.AbstractEventLoop", asked))
        if [getattr(step, "__self__", None) for step in asked.steps] == [task]:
            return True
        problem = "its tasks do not tell whose step they ask for"
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        problem = f"{type(error).__name__}: {error}"
    finally:
        work.close()  # its step is never made
        asked.steps.clear()
    _logger.warning("Requests on event loops are not profiled: asyncio is not as known, %s", problem)
    return False


async def _nothing() -> None:
    pass


class _AskedLoop:
    """As much of an event loop as a task needs that never runs."""

    def __init__(self) -> None:
        self.steps: list[object] = []

    def call_soon(self, callback: object, *_arguments: object, context: Context | None = None) -> None:
        self.steps.append(callback)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: object) -> None:
        """That the task was not made to its end is no news."""


def is_followed(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> bool:
    """Whether somebody is told of the steps of `task` already. There is no telling for a second one."""
    steps = vars(loop).get("call_soon")
    return isinstance(steps, _LoopSteps) and steps.is_followed(task)


def is_followed_by_another(task: asyncio.Task[Any], stepped: Stepped | None) -> bool:
    """Whether another than `stepped` is told of the steps of `task`, as far as is known."""
    follower = _follower_of(task)
    return follower is not None and follower is not stepped and follower.is_open


def follow(
    loop: asyncio.AbstractEventLoop,
    task: asyncio.Task[Any],
    stepped: Stepped,
    *,
    belongs: Callable[[Span], bool],
    max_duration_seconds: float,
) -> Callable[[], None]:
    """Tell `stepped` of the steps of `task`, which is running, and of tasks whose current span `belongs`.

    The result ends that, on any thread.
    """
    steps = vars(loop).get("call_soon")
    if not isinstance(steps, _LoopSteps):
        steps = _LoopSteps(loop)
    return steps.follow(stepped, _Followed(task, belongs), max_duration_seconds)


class _LoopSteps:
    """Stands in the place of `call_soon` of one loop while requests are profiled there.

    A task asks its loop to call its next step with `call_soon`, which keeps the order. So a call before and
    a call after it enclose just this step. Each passes calls on to what it has replaced, for ever: others may
    have put something around it, or keep it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._replaced: Any = vars(loop).get("call_soon")
        self._call_soon: Callable[..., asyncio.Handle] = loop.call_soon
        # Changed in place by single calls: a sample that comes in the middle may end another profile.
        self._followed: dict[Stepped, _Followed] = {}
        self._thread = native.thread_id()
        # Of this loop alone: a context can be entered by one thread at a time.
        self._context = Context()
        self._pid = os.getpid()
        self._changing = native.RLock()

    def follow(
        self, stepped: Stepped, followed: _Followed, max_duration_seconds: float
    ) -> Callable[[], None]:
        limit: asyncio.TimerHandle | None = None
        try:
            with self._lock():
                self._followed[stepped] = followed
                # Perhaps another thread has just ended the last profile.
                if vars(self._loop).get("call_soon") is self._replaced:
                    self._loop.call_soon = self
            self._call_soon(stepped.pause, context=self._context)
            limit = self._loop.call_later(
                max_duration_seconds + _TIMER_SLACK_SECONDS,
                _reach_limit,
                ref(stepped),
                context=self._context,
            )
        except BaseException:
            self._forget(stepped, limit)
            raise
        return partial(self._forget, stepped, limit)

    def is_followed(self, task: asyncio.Task[Any]) -> bool:
        return any(followed.task is task for followed in list(self._followed.values()))

    def _forget(self, stepped: Stepped, limit: asyncio.TimerHandle | None) -> None:
        """Any thread."""
        if limit is not None and native.thread_id() == self._thread:
            limit.cancel()
        with self._lock():
            self._followed.pop(stepped, None)
            # What somebody else has put around us meanwhile stays.
            if not self._followed and vars(self._loop).get("call_soon") is self:
                if self._replaced is None:
                    del self._loop.call_soon
                else:
                    self._loop.call_soon = self._replaced

    def _lock(self) -> AbstractContextManager[object]:
        if self._pid != os.getpid():  # the parent's thread that held it does not exist in a child
            self._pid, self._changing = os.getpid(), native.RLock()
        return self._changing

    def __call__(
        self, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """`call_soon` of the loop."""
        stepped = self._stepped_by(callback, context) if self._followed else None
        if stepped is None:
            return self._call_soon(callback, *arguments, context=context)
        self._call_soon(stepped.resume, context=self._context)
        handle = self._call_soon(callback, *arguments, context=context)
        self._call_soon(stepped.pause, context=self._context)
        return handle

    def _stepped_by(self, callback: object, context: Context | None) -> Stepped | _Step | None:
        try:
            task: Any = getattr(callback, "__self__", None)
            if not isinstance(task, asyncio.Task):
                return None
            all_followed = list(self._followed.items())
            for stepped, followed in all_followed:
                if followed.task is task:
                    return stepped
            if context is None:
                return None
            # A copy, because a task that is running has entered its context.
            span = context.copy().run(get_current_span)
            told = {stepped: followed.task for stepped, followed in all_followed if followed.belongs(span)}
            if not told:
                return None
            chosen = self._choose(cast("asyncio.Task[Any]", task), told)
            if chosen is next(iter(told)):
                return chosen
            return _Step(chosen, partial(self._stepped_by, callback, context))
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            _logger.debug("A task could not be told apart", exc_info=error)
        return None

    def _choose(self, task: asyncio.Task[Any], told: dict[Stepped, asyncio.Task[Any]]) -> Stepped:
        """Of those that are told of a request's tasks the one that `task` is a part of, or the first.

        Several are told where work comes back to the loop from a thread. A task is of the part whose own task
        has begun it, or that is told of the one that has. Who begins it asks for its first step; eager tasks
        have had theirs, and who asks for the next one has only woken them.
        """
        known = chosen = _follower_of(task)
        if known is None and _has_not_begun(task):
            beginner = asyncio.current_task(self._loop)
            own = (stepped for stepped, own_task in told.items() if own_task is beginner)
            chosen = next(own, None) or _follower_of(beginner)
        if chosen not in told:
            chosen = next(iter(told))
        if chosen is not known:
            setattr(task, _FOLLOWER, ref(chosen))
        return chosen


def _follower_of(task: asyncio.Task[Any] | None) -> Stepped | None:
    """Who is or was told of the steps of `task`, a task of a request; None when that is not known."""
    known: ref[Stepped] | None = getattr(task, _FOLLOWER, None)
    return None if known is None else known()


def _has_not_begun(task: asyncio.Task[Any]) -> bool:
    work = task.get_coro()
    return isinstance(work, CoroutineType) and getcoroutinestate(work) == CORO_CREATED


class _Step:
    """One step of a task that a later part of its request has begun, which may be over when it is made."""

    def __init__(self, chosen: Stepped, ask_again: Callable[[], Stepped | _Step | None]) -> None:
        self._chosen = chosen
        self._ask_again = ask_again
        self._told: Stepped | _Step = chosen

    def resume(self) -> None:
        if not self._chosen.is_open:
            self._told = self._ask_again() or self._chosen
        self._told.resume()

    def pause(self) -> None:
        self._told.pause()


def _reach_limit(stepped: ref[Stepped]) -> None:
    # Weak: a request that ends on another thread cannot cancel the timer of the loop.
    found = stepped()
    if found is not None:
        found.reach_limit()
