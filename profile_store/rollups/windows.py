"""Which stored minutes and hours answer a window, and which parts of it are read from the records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Window(NamedTuple):
    """From `start` up to, but without, `end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Windows of whole hours, of whole minutes, and the rest; together exactly the window, without overlap.

    `behind` minutes are read as they were last rolled up, although newer requests are known to be there.
    """

    hours: tuple[Window, ...]
    minutes: tuple[Window, ...]
    live: tuple[Window, ...]
    behind: int


def floor_to(time: datetime, step: timedelta) -> datetime:
    """The last multiple of `step`, counted from 1970 in UTC, that is not after `time`."""
    return time - (time - _EPOCH) % step


def ceil_to(time: datetime, step: timedelta) -> datetime:
    """The first multiple of `step` that is not before `time`."""
    return time + (_EPOCH - time) % step


def plan(window: Window, waiting: Collection[datetime], *, max_live: int, whole_hours: bool = True) -> Plan:
    """Divide a window. `waiting` holds the minutes whose mark has not been worked off.

    Of those the newest `max_live` are read from the records, like the parts of a minute at both ends, and the
    hours they lie in minute by minute. Without `whole_hours` everything is read minute by minute.
    """
    first, last = ceil_to(window.start, MINUTE), floor_to(window.end, MINUTE)
    if first > last:
        return Plan(hours=(), minutes=(), live=(window,), behind=0)
    edges = [Window(window.start, first), Window(last, window.end)]
    inside = sorted((minute for minute in waiting if first <= minute < last), reverse=True)
    live_minutes = [Window(minute, minute + MINUTE) for minute in inside[:max_live]]
    hours: list[Window] = []
    if whole_hours:
        split = {floor_to(minute, HOUR) for minute in inside}
        hours = list(without(Window(ceil_to(first, HOUR), floor_to(last, HOUR)), split, HOUR))
    minutes = [
        part
        for gap in gaps(Window(first, last), hours)
        for part in without(gap, {minute for minute, _ in live_minutes}, MINUTE)
    ]
    return Plan(
        hours=tuple(hours),
        minutes=tuple(minutes),
        live=tuple(part for part in [*edges, *live_minutes] if part.start < part.end),
        behind=len(inside) - len(live_minutes),
    )


def without(window: Window, left_out: Iterable[datetime], step: timedelta) -> Iterator[Window]:
    """What remains of a window without the steps that begin at `left_out`."""
    start = window.start
    for begin in sorted(left_out):
        if window.start <= begin < window.end:
            if start < begin:
                yield Window(start, begin)
            start = begin + step
    if start < window.end:
        yield Window(start, window.end)


def gaps(window: Window, parts: Iterable[Window]) -> Iterator[Window]:
    """What remains of a window without `parts` of it, which are sorted and do not overlap."""
    start = window.start
    for part in parts:
        if start < part.start:
            yield Window(start, part.start)
        start = part.end
    if start < window.end:
        yield Window(start, window.end)
