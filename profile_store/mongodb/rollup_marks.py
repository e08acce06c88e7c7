"""Marks: which minutes of which projects have requests that no rollup counts yet.

The order that loses nothing, without comparing the clocks of two machines:

- A writer stores its records with majority. Then it sets the mark of their minute to a value that was never
  there before, unless it did so in the last `FRESH_SECONDS`. Then it answers.
- A roller computes a minute only after it has seen one value of its mark for `SETTLE_SECONDS`, which is
  longer, and deletes the mark only if it still has that value.

A record whose writer did not set the mark again was stored within `FRESH_SECONDS` of the value, so before the
roller began to read. Any later record has changed the value, so its mark stays.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from bson import ObjectId
from pymongo import UpdateOne

from profile_store.mongodb import indexes
from profile_store.mongodb.client import Collection, Database, Document
from profile_store.mongodb.upserts import upsert_all
from profile_store.rollups.windows import MINUTE, floor_to

FRESH_SECONDS = 5.0
SETTLE_SECONDS = 10.0
PUT_OFF_SECONDS = 300.0

MINUTES = "minute"
TREES = "trees"
Kind = Literal["minute", "trees"]

# What lies further ahead comes from a clock that is wrong by more than a day, and counts in no statistics.
_FUTURE = timedelta(days=1)

_MARKS_AT_ONCE = 1_000
_MAX_REMEMBERED = 20_000
_UNASKED_SECONDS = 60.0


class MarkKey(NamedTuple):
    """A minute, or an hour of call trees, of a project. Fields are named as in the collection."""

    project_id: ObjectId
    kind: Kind
    start: datetime

    def as_filter(self) -> Document:
        return self._asdict()


def seconds_of_this_machine() -> float:
    """A clock that nobody sets, and that goes on while the machine sleeps where the system has such a one."""
    boot_time: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


def minute_marks(requests: Iterable[tuple[str | ObjectId, datetime]], now: datetime) -> set[MarkKey]:
    """The marks of requests, given as project id and start."""
    latest = now + _FUTURE
    minutes = {(project_id, floor_to(start, MINUTE)) for project_id, start in requests if start <= latest}
    return {MarkKey(ObjectId(project_id), MINUTES, minute) for project_id, minute in minutes}


class MarkWriter:
    """The writer's side. One for each process; it remembers what it marked a moment ago."""

    def __init__(self, database: Database, seconds: Callable[[], float] = seconds_of_this_machine) -> None:
        self._marks = database[indexes.ROLLUP_MARKS]
        self._seconds = seconds
        self._fresh_until: dict[MarkKey, float] = {}
        self._wanted: set[MarkKey] = set()
        self._turn = asyncio.Lock()

    async def note(self, keys: set[MarkKey]) -> None:
        """Return when every key has a mark that no roller will delete before it has seen what is stored now.

        Whoever comes while another one writes is written with the next, in one message.

        Raises:
            PyMongoError, StoreUnavailable: some may not be marked.
        """
        if not self._due(keys):
            return
        self._wanted |= keys
        async with self._turn:
            due = self._due(keys | self._wanted)
            self._wanted.clear()
            if not due:
                return
            # Before the write: a mark is as old as the moment in which it could first have been seen.
            fresh_until = self._seconds() + FRESH_SECONDS
            await set_marks(self._marks, due)
            if len(self._fresh_until) + len(due) > _MAX_REMEMBERED:
                self._fresh_until.clear()
            self._fresh_until.update(dict.fromkeys(due, fresh_until))

    def _due(self, keys: Iterable[MarkKey]) -> list[MarkKey]:
        now = self._seconds()
        return [key for key in keys if self._fresh_until.get(key, now) <= now]


async def set_marks(marks: Collection, keys: Iterable[MarkKey]) -> None:
    """Give each mark a new value, and make it when it is missing.

    Raises:
        PyMongoError, StoreUnavailable: some may not be marked.
    """
    ordered = sorted(keys)
    for first in range(0, len(ordered), _MARKS_AT_ONCE):
        some = ordered[first : first + _MARKS_AT_ONCE]
        await upsert_all(
            marks,
            [UpdateOne(key.as_filter(), {"$set": {"value": ObjectId()}}, upsert=True) for key in some],
        )


class _Seen(NamedTuple):
    """A mark that a roller knows; `since` lies ahead while it is put off."""

    value: ObjectId
    since: float
    asked: float


class SettlingMarks:
    """The roller's side: remembers since when each mark has had its value. One for each roller.

    While more marks wait than it remembers, the first ones settle, are worked off, and make room for others.
    """

    def __init__(self, seconds: Callable[[], float] = seconds_of_this_machine) -> None:
        self._seconds = seconds
        self._seen: dict[MarkKey, _Seen] = {}
        self._next_tidying = -math.inf

    def is_settled(self, key: MarkKey, value: ObjectId) -> bool:
        """Whether this roller has known the mark with this value for long enough."""
        now = self._seconds()
        known = self._seen.get(key)
        if known is not None and known.value == value:
            self._seen[key] = known._replace(asked=now)
            return now - known.since >= SETTLE_SECONDS
        if known is not None or self._has_room(now):
            self._seen[key] = _Seen(value, since=now, asked=now)
        return False

    def is_put_off(self, key: MarkKey) -> bool:
        """Whether what was marked could not be computed, and it is too early to try again."""
        known = self._seen.get(key)
        return known is not None and known.since > self._seconds()

    def put_off(self, key: MarkKey, value: ObjectId) -> None:
        """What was marked could not be computed: with this value it settles only after `PUT_OFF_SECONDS`."""
        now = self._seconds()
        self._seen[key] = _Seen(value, since=now + PUT_OFF_SECONDS, asked=now)

    def forget(self, key: MarkKey) -> None:
        """The mark is gone."""
        self._seen.pop(key, None)

    def _has_room(self, now: float) -> bool:
        """Whether one more may be remembered, when need be instead of marks that other rollers deleted."""
        if len(self._seen) >= _MAX_REMEMBERED and now >= self._next_tidying:
            # Not for each mark: it looks at all of them.
            self._next_tidying = now + SETTLE_SECONDS
            oldest = now - _UNASKED_SECONDS
            self._seen = {
                key: seen for key, seen in self._seen.items() if max(seen.asked, seen.since) >= oldest
            }
        return len(self._seen) < _MAX_REMEMBERED
