"""One wait of a request for work elsewhere: in a worker thread, or on an event loop from a thread."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from types import CodeType, FrameType
from typing import Any

from otel_pyinstrument.frames import identifier_of_code
from otel_pyinstrument.guard import Guard
from otel_pyinstrument.segment import Segment


class Hop:
    """Made by the caller; `run` or `run_async` is handed to the other side; `end` is the caller's again."""

    __slots__ = ("_close_segment", "_end", "_guard", "_open_segment")

    def __init__(
        self,
        guard: Guard,
        *,
        open_segment: Callable[[FrameType], Segment | None],
        close_segment: Callable[[Segment], None],
        end: Callable[[], None] | None,
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
        if self._end is not None:
            self._guard.call("hop", self._end)

    def _open(self, entry: FrameType, function: Callable[..., Any]) -> Segment | None:
        segment = self._open_segment(entry)
        if segment is not None:
            segment.place_without_samples = _identifiers_of(function)
        return segment


def _identifiers_of(function: Any) -> list[str]:
    """The stack of a call of `function` as the sampler would name it; empty when it is not known."""
    while isinstance(function, functools.partial):
        function = function.func
    code: object = getattr(inspect.unwrap(function), "__code__", None)
    if not isinstance(code, CodeType):
        return []
    owner: object = getattr(function, "__self__", None)
    return [identifier_of_code(code) + ("" if owner is None else f"\1c{type(owner).__name__}")]
