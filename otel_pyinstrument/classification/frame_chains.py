"""The calls of what runs and of what is suspended, outermost first."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from operator import attrgetter
from types import CoroutineType, FrameType, GeneratorType
from typing import Any

_LINKS_OF_A_CHAIN = range(2_000)
_WITHOUT_LINK = frozenset(
    {"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"}
)
"""Awaitables of the interpreter that do not say in Python what they wait for."""
_LINKS = {
    "coroutine": ("cr_frame", "cr_await"),
    "generator": ("gi_frame", "gi_yieldfrom"),
    "async_generator": ("ag_frame", "ag_await"),
}
_LINKS_BY_TYPE: dict[object, Callable[[Any], tuple[FrameType | None, Any]]] = {
    CoroutineType: attrgetter(*_LINKS["coroutine"]),
    GeneratorType: attrgetter(*_LINKS["generator"]),
}
"""Python's own, by one call of C: this runs for each step of a request. Compilers have types like them."""
_LINKED = _WITHOUT_LINK | {"coroutine", "async_generator"}


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


def suspended_calls(awaitable: object) -> list[FrameType]:
    """The frames of a suspended coroutine and of what it awaits, outermost first."""
    frames: list[FrameType] = []
    links = _LINKS_BY_TYPE
    # Once for each step of a request, perhaps under the profile hook, which sees every call.
    for _ in _LINKS_OF_A_CHAIN:
        kind = type(awaitable)
        links_of = links[kind] if kind in links else _frame_and_awaited  # noqa: SIM401 - a call
        frame, awaitable = links_of(awaitable)
        if frame is not None:
            frames += (frame,)
        if awaitable is None:
            break
    return frames


def frame_of(coroutine: Any) -> FrameType | None:
    """The frame of a coroutine or generator; None when it has ended."""
    return getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)


def _frame_and_awaited(awaitable: Any) -> tuple[FrameType | None, Any]:
    # By type: what the application awaits may do anything when it is asked for an attribute.
    kind = type(awaitable).__name__
    if kind in _LINKS:
        frame, link = _LINKS[kind]
        return getattr(awaitable, frame, None), getattr(awaitable, link, None)
    return None, _what_it_holds(awaitable) if kind in _WITHOUT_LINK else None


def _what_it_holds(awaitable: object) -> object:
    for held in gc.get_referents(awaitable):
        if type(held).__name__ in _LINKED:
            return held
    return None
