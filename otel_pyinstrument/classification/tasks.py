"""An asyncio task, which takes turns with all others of its event loop. asyncio and uvloop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from inspect import CO_COROUTINE
from types import FrameType
from typing import Any
from weakref import ref

from opentelemetry.trace import get_current_span

from otel_pyinstrument.classification import AWAIT, Place, SameRequest, is_loaded
from otel_pyinstrument.classification.frame_chains import (
    calls_up_to,
    frame_of,
    outer_call_count,
    running_calls,
    suspended_calls,
)
from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.loop_steps import (
    Stepped,
    can_be_followed,
    follow,
    is_followed,
    is_followed_by_another,
)
from otel_pyinstrument.private_names import frame_identifiers


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, while it is running."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        if came_from_signal_handler(error):
            raise
        return None


class TaskClassifier:
    """Own task: the stack. Another task of the request: our await, then its stack. All else: our await.

    Stacks start at the task's coroutine: what is around it are the calls of the event loop.
    """

    shares_thread = True
    knows_turns = True

    def __init__(
        self,
        task: asyncio.Task[Any],
        loop: asyncio.AbstractEventLoop,
        same_request: SameRequest,
    ) -> None:
        self._task = task
        self._loop = loop
        self._same_request = same_request
        self._stepped: Callable[[], Stepped | None] = lambda: None
        self._greenlet: Callable[[], Any] | None = None
        if is_loaded("greenlet"):
            from otel_pyinstrument.classification.greenlets import weak_greenlet

            self._greenlet = weak_greenlet(sys.modules["greenlet"].getcurrent())

    @classmethod
    def of_current_task(
        cls, loop: asyncio.AbstractEventLoop, same_request: SameRequest
    ) -> TaskClassifier | None:
        """None inside a callback of the loop: that is nobody's for longer than this moment.

        None, too, on a loop that cannot be followed, and in a task that is being profiled already: a job
        with a root of its own in the middle of a request.
        """
        task = asyncio.current_task(loop)
        if task is None or not can_be_followed(loop) or is_followed(loop, task):
            return None
        return cls(task, loop, same_request)

    def follow(self, stepped: Stepped, max_duration_seconds: float) -> Callable[[], None]:
        self._stepped = ref(stepped)  # which has this classifier
        return follow(
            self._loop,
            self._task,
            stepped,
            belongs=self._same_request,
            max_duration_seconds=max_duration_seconds,
        )

    @property
    def is_gone(self) -> bool:
        return self._loop.is_closed()

    def place(self, stack: list[str]) -> Place:
        task = asyncio.current_task(self._loop)
        if task is self._task:
            below = self._from_coroutine(self._task, stack)
            return Place(below, True) if below else Place([AWAIT], False, nobodys=True)
        awaiting = frame_identifiers(suspended_calls(self._task.get_coro()))
        if task is not None and self._is_of_request(task):
            below = self._from_coroutine(task, stack)
            return Place(awaiting + (below or [AWAIT]), bool(below), nobodys=not below)
        return Place([*awaiting, AWAIT], False, nobodys=task is None)

    def calls(self) -> list[FrameType]:
        task = asyncio.current_task(self._loop) if running_loop() is self._loop else None
        if task is self._task:
            return self._calls_from_coroutine(self._task)
        awaiting = suspended_calls(self._task.get_coro())
        if task is not None and self._is_of_request(task):
            return awaiting + self._calls_from_coroutine(task)
        return awaiting

    def is_running(self) -> bool:
        return running_loop() is self._loop and asyncio.current_task(self._loop) is self._task

    def is_in_turn(self) -> bool:
        return getattr(self._task.get_coro(), "cr_running", False) is True

    def has_step_alone(self) -> bool:
        task = asyncio.current_task(self._loop)
        frame = None if task is None else frame_of(task.get_coro())
        return frame is not None and not any(
            call.f_code.co_flags & CO_COROUTINE for call in calls_up_to(frame.f_back)
        )

    def _is_of_request(self, task: asyncio.Task[Any]) -> bool:
        """Whether `task`, which is running, belongs to the request, and here: not to another part of it."""
        return self._same_request(get_current_span()) and not is_followed_by_another(task, self._stepped())

    def _from_coroutine(self, task: asyncio.Task[Any], stack: list[str]) -> list[str]:
        frame = frame_of(task.get_coro())
        if frame is None:
            return []
        if self._greenlet is not None:
            from otel_pyinstrument.classification.greenlets import stack_from

            stack = stack_from(self._greenlet(), stack) or stack
        return stack[1 + outer_call_count(frame) :]

    def _calls_from_coroutine(self, task: asyncio.Task[Any]) -> list[FrameType]:
        frame = frame_of(task.get_coro())
        return [] if frame is None else running_calls()[outer_call_count(frame) :]
