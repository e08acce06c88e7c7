"""Group commit: requests that wait for the database at the same time are written together.

A write costs the same few round trips and flushes of the journal, whether it holds one span or a thousand. So
what arrives while a write runs goes into the next one, which begins when that one ends, or earlier when it is
full. Before a write begins, requests that stand in the sockets already may come along. Nobody waits for a
clock: without load each request is written at once and alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from profile_store.contracts import StoreUnavailable, UnknownStoreError, Writer, WriteResult
from profile_store.ending import end
from profile_store.model import IncomingBatch

MAX_GROUP_SPANS = 2_000
MAX_WRITES = 4
GATHERING_TURNS = 4
"""Turns of the loop in which a request whose bytes are there is read and translated. One takes some 10 us if
there is nothing to do."""

_NOTHING = WriteResult(new_records=0, new_profiles=0, refusals=())


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A batch, and where its result goes. Whoever waits for that may have been cancelled."""

    batch: IncomingBatch
    spans: int
    result: asyncio.Future[WriteResult]

    def settle(self, outcome: WriteResult | Exception) -> None:
        if self.result.done():
            return
        if isinstance(outcome, Exception):
            self.result.set_exception(outcome)
        else:
            self.result.set_result(outcome)


class GroupCommit:
    """Writes batches through `store`. Belongs to the loop of the store; close it before the store."""

    def __init__(self, store: Writer) -> None:
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._waiting_spans = 0
        self._running: set[asyncio.Task[None]] = set()

    async def write(self, batch: IncomingBatch) -> WriteResult:
        """As `Writer.write`: returns when the batch is durable, and tells nothing of what became of others.

        What is new in a group (`new_records`, `new_profiles`, `joined`) is told once, to one of its batches.

        Raises:
            StoreUnavailable: as there.
        """
        result = asyncio.get_running_loop().create_future()
        waiting = _Waiting(batch, _span_count(batch), result)
        self._waiting.append(waiting)
        self._waiting_spans += waiting.spans
        self._start()
        return await result

    async def close(self) -> None:
        """Cancel the writes that still run, and whoever waits for one."""
        for waiting in self._take_all():
            waiting.result.cancel()
        await end(*self._running)

    def _start(self) -> None:
        while self._waiting_spans >= MAX_GROUP_SPANS and len(self._running) < MAX_WRITES:
            self._begin(self._write(self._next_group()))
        if self._waiting and not self._running:
            self._begin(self._gather_and_write())

    def _begin(self, write: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(write)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def _gather_and_write(self) -> None:
        for _ in range(GATHERING_TURNS):
            await asyncio.sleep(0)
        if self._waiting:  # unless they have become a full group, or were told that nothing can be written
            await self._write(self._next_group())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    def _next_group(self) -> list[_Waiting]:
        group = [self._waiting.popleft()]
        spans = group[0].spans
        while self._waiting and spans + self._waiting[0].spans <= MAX_GROUP_SPANS:
            group.append(self._waiting.popleft())
            spans += group[-1].spans
        self._waiting_spans -= spans
        return group

    def _take_all(self) -> list[_Waiting]:
        waiting = [*self._waiting]
        self._waiting.clear()
        self._waiting_spans = 0
        return waiting

    async def _write(self, group: Sequence[_Waiting], before: WriteResult = _NOTHING) -> None:
        """Write a group and settle all of it. `before`: what was new when it was written first."""
        try:
            outcome = await self._attempt(group)
            if len(group) > 1 and _may_be_about_one(outcome):
                # Halve until each result belongs to one batch. What is stored already stays as it is.
                new = _NOTHING if isinstance(outcome, Exception) else outcome
                middle = len(group) // 2
                await self._write(group[:middle], _sum(before, new))
                await self._write(group[middle:])
                return
            if _unreachable(outcome):
                # Those who wait would learn the same, but only after the same time.
                group = [*group, *self._take_all()]
            elif not isinstance(outcome, Exception):
                group[0].settle(replace(_sum(before, outcome), refusals=outcome.refusals))
                outcome = _NOTHING
            for waiting in group:
                waiting.settle(outcome)
        finally:
            for waiting in group:
                waiting.result.cancel()  # only when this task was cancelled: else it is settled

    async def _attempt(self, group: Sequence[_Waiting]) -> WriteResult | Exception:
        try:
            return await self._store.write(_together(group))
        except Exception as error:
            return error


def _unreachable(outcome: WriteResult | Exception) -> bool:
    return isinstance(outcome, StoreUnavailable) and not isinstance(outcome, UnknownStoreError)


def _may_be_about_one(outcome: WriteResult | Exception) -> bool:
    if isinstance(outcome, Exception):
        return not _unreachable(outcome)
    return bool(outcome.refusals)


def _together(group: Sequence[_Waiting]) -> IncomingBatch:
    if len(group) == 1:
        return group[0].batch
    batches = [waiting.batch for waiting in group]
    return IncomingBatch(
        records=list(chain.from_iterable(batch.records for batch in batches)),
        child_spans=list(chain.from_iterable(batch.child_spans for batch in batches)),
        profiles=list(chain.from_iterable(batch.profiles for batch in batches)),
    )


def _sum(one: WriteResult, other: WriteResult) -> WriteResult:
    """What is new in both."""
    return WriteResult(
        new_records=one.new_records + other.new_records,
        new_profiles=one.new_profiles + other.new_profiles,
        refusals=(),
        joined=[*one.joined, *other.joined],
    )


def _span_count(batch: IncomingBatch) -> int:
    children = sum(len(chunk.span_ids) for chunk in batch.child_spans)
    return len(batch.records) + children + len(batch.profiles)
