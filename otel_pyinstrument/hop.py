"""One wait of a request for work elsewhere: in a worker thread, or on an event loop from a thread."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from types import CodeType, FrameType
from typing import Any, cast

from otel_pyinstrument.frames import identifier_of_code
from otel_pyinstrument.guard import Guard, came_from_signal_handler
from otel_pyinstrument.segment import Segment

_MAX_WRAPPERS = 20


class Hop:
    """Made by the caller; `run` or `run_async` is handed to the other side; `end` is the caller's again."""

    __slots__ = ("_close_segment", "_end", "_guard", "_open_segment")

    def __init__(
        self,
        guard: Guard,
        *,
        open_segment: Callable[[FrameType], Segment | None],
        close_segment: Callable[[Segment], None],
        end: Callable[[], None],
    ) -> None:
        self._guard = guard
        self._open_segment = open_segment
        self._close_segment = close_segment
        self._end = end

    def run(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        """`function(...)`, sampled, on the thread that works for the caller."""
        segment = self._guard.call("hop", self._open, sys._getframe(), function)  # pyright: ignore[reportPrivateUsage] - documented, CPython
        try:
            return function(*arguments, **options)
        finally:
            if segment is not None:
                self._guard.call("hop", self._close_segment, segment)

    def run_async(self, function: Callable[..., Awaitable[Any]], /, *arguments: Any, **options: Any) -> Any:
        """An awaitable of `function(...)`, sampled, for the task that works for the caller."""
        return self._await(function, function(*arguments, **options))

    async def _await(self, function: Callable[..., Any], awaitable: Awaitable[Any]) -> Any:
        segment = self._guard.call("hop", self._open, sys._getframe(), function)  # pyright: ignore[reportPrivateUsage] - documented, CPython
        try:
            return await awaitable
        finally:
            if segment is not None:
                self._guard.call("hop", self._close_segment, segment)

    def end(self) -> None:
        """The caller has its answer, or waits no longer."""
        self._guard.call("hop", self._end)

    def _open(self, entry: FrameType, function: Callable[..., Any]) -> Segment | None:
        place = _identifiers_of(function)  # first: nothing that may fail comes after the opening
        segment = self._open_segment(entry)
        if segment is not None:
            segment.place_without_samples = place
        return segment


def _identifiers_of(function: Any) -> list[str]:
    """The stack of a call of `function` as the sampler would name it; empty when it is not known."""
    try:
        while isinstance(function, functools.partial):
            function = function.func
        code: object = getattr(_unwrapped(function), "__code__", None)
        if not isinstance(code, CodeType):
            return []
        owner: object = getattr(function, "__self__", None)
        return [identifier_of_code(code) + ("" if owner is None else f"\1c{type(owner).__name__}")]
    except Exception as error:  # of a `__getattr__`, say
        if came_from_signal_handler(error):
            raise
        return []


def _unwrapped(function: Any) -> Any:
    """What decorators have wrapped. Only what it holds itself: a `__getattr__` may answer any name."""
    for _ in range(_MAX_WRAPPERS):
        own: object = getattr(function, "__dict__", None)
        if type(own) is not dict or "__wrapped__" not in own:
            break
        function = cast("dict[str, Any]", own)["__wrapped__"]
    return function
