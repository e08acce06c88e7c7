"""Many askers, few queries: what is asked for while the database is being asked goes into the next query.

So a flood of wrong keys or new service names costs the database a bounded number of queries per second, and
every asker is answered all the same, or told at once to come again when too many wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from collector_receiver.admission import overloaded
from collector_receiver.translation import Destination

QUERIES_PER_SECOND = 20.0
BURST_QUERIES = 20
MAX_PER_QUERY = 1_000
MAX_WAITING = 20_000  # texts, each as often as it is asked for: what a second of queries can answer

Query = Callable[[Collection[str]], Awaitable[Mapping[str, Destination]]]


class SharedLookups:
    """Belongs to one event loop. `query` answers for those texts that it knows, or raises for all."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._waiting: dict[str, asyncio.Future[Destination | None]] = {}
        self._asked: dict[str, asyncio.Future[Destination | None]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._due = float("-inf")
        self._places_taken = 0

    async def of(self, texts: Collection[str]) -> Mapping[str, Destination]:
        """What `query` answers, without the texts that it does not know; whatever it raises.

        Raises:
            TryAgain: `MAX_WAITING` texts wait, or would with these; none of these does.
        """
        # Not only different ones: who waits for the same takes memory as well.
        if self._places_taken + len(texts) > MAX_WAITING:
            raise overloaded()
        self._places_taken += len(texts)
        try:
            futures = [self._asked_next(text) for text in texts]
            if futures and (self._worker is None or self._worker.done()):
                self._worker = asyncio.create_task(self._work())
            # Others may wait for the same: who is cancelled takes the answer away from nobody.
            answers = await asyncio.shield(asyncio.gather(*futures))
        finally:
            self._places_taken -= len(texts)
        return {text: found for text, found in zip(texts, answers, strict=True) if found is not None}

    def _asked_next(self, text: str) -> asyncio.Future[Destination | None]:
        # Nobody joins a query under way: its answer may be older than the question.
        future = self._waiting.get(text)
        if future is None:
            future = self._waiting[text] = asyncio.get_running_loop().create_future()
        return future

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._wait_for_turn()
                texts = list(self._waiting)[:MAX_PER_QUERY]
                self._asked = {text: self._waiting.pop(text) for text in texts}
                await self._ask(self._asked)
        finally:
            # Only when this task is cancelled: nobody is left to answer.
            for future in (*self._asked.values(), *self._waiting.values()):
                future.cancel()
            self._asked, self._waiting = {}, {}

    async def _wait_for_turn(self) -> None:
        spacing = 1 / QUERIES_PER_SECOND
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now - BURST_QUERIES * spacing) + spacing
        if self._due > now:
            await asyncio.sleep(self._due - now)

    async def _ask(self, asked: Mapping[str, asyncio.Future[Destination | None]]) -> None:
        try:
            found = await self._query(list(asked))
        except Exception as error:
            for future in asked.values():
                future.set_exception(error)
                future.exception()  # marks it as seen: the asker may be gone
        else:
            for text, future in asked.items():
                future.set_result(found.get(text))
