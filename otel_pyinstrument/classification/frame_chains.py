"""The calls of what runs and of what is suspended, outermost first."""

from __future__ import annotations

import gc
import sys
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

_LONGEST_CHAIN = 2_000
_WITHOUT_LINK = frozenset(
    {"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"}
)
"""Awaitables of the interpreter that do not say in Python what they wait for."""


def running_calls() -> list[FrameType]:
    """The calls of the running thread (or greenlet) as far as the caller of this function."""
    return calls_up_to(sys._getframe(1))  # pyright: ignore[reportPrivateUsage] - documented, CPython


def calls_up_to(frame: FrameType | None) -> list[FrameType]:
    """`frame` and its callers."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames


def outer_call_count(frame: FrameType) -> int:
    """How many calls are around `frame`."""
    count = 0
    outer = frame.f_back
    while outer is not None:
        count += 1
        outer = outer.f_back
    return count


def suspended_calls(awaitable: Any) -> list[FrameType]:
    """The frames of a suspended coroutine and of what it awaits, outermost first."""
    frames: list[FrameType] = []
    while awaitable is not None and len(frames) < _LONGEST_CHAIN:
        frame, awaited = _frame_and_awaited(awaitable)
        if frame is not None:
            frames.append(frame)
        awaitable = awaited
    return frames


def frame_of(coroutine: Any) -> FrameType | None:
    """The frame of a coroutine or generator; None when it has ended."""
    return getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)


def _frame_and_awaited(awaitable: Any) -> tuple[FrameType | None, Any]:
    if isinstance(awaitable, CoroutineType) or hasattr(awaitable, "cr_frame"):
        return awaitable.cr_frame, awaitable.cr_await
    if isinstance(awaitable, GeneratorType) or hasattr(awaitable, "gi_frame"):
        return awaitable.gi_frame, awaitable.gi_yieldfrom
    if isinstance(awaitable, AsyncGeneratorType):
        return awaitable.ag_frame, awaitable.ag_await
    if type(awaitable).__name__ in _WITHOUT_LINK:
        return None, _what_it_holds(awaitable)
    return None, None


def _what_it_holds(awaitable: Any) -> Any:
    for held in gc.get_referents(awaitable):
        if isinstance(held, (CoroutineType, AsyncGeneratorType)) or type(held).__name__ in _WITHOUT_LINK:
            return held
    return None
