"""How long the bodies of requests may take to arrive, and how many may arrive at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

# What a body has while others wait for its place. Who needs longer has little to lose: a Collector gives up
# after 5 s. With much less, many honest senders behind slow networks would refuse each other again and again.
FAIR_SECONDS = 3.0


class Arrivals:
    """Bodies on their way from the network into memory. Used on one loop.

    `places` bodies arrive at one time, others wait in the order in which they came. Senders that trickle
    cannot keep the others out: for each body that begins to wait, the oldest of those that arrive has no more
    than `FAIR_SECONDS` in all, and neither has one that gets its place while others still wait. So the n-th
    of those that wait has a place within n / `places` times that, rounded up, if its own time lasts.
    """

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._under_way: dict[asyncio.Timeout, float] = {}
        self._not_after: float | None = None

    @asynccontextmanager
    async def one(self, seconds: float) -> AsyncGenerator[None]:
        """A place for one body, and at most `seconds` to wait for it and to arrive.

        Raises:
            TimeoutError: when the time was over; at the end, or instead of a place.
        """
        now = asyncio.get_running_loop().time
        until = now() + seconds if self._not_after is None else min(now() + seconds, self._not_after)
        async with asyncio.timeout_at(until) as limit:
            await self._wait(limit)
            started = self._under_way[limit] = now()
            if self._waiting:
                _bring_forward(limit, started + FAIR_SECONDS)
            try:
                yield
            finally:
                del self._under_way[limit]
                self._places.release()

    def hurry(self, seconds: float) -> None:
        """From now on, and for those that wait or are under way too: what has not arrived within `seconds` is
        given up.
        """
        self._not_after = asyncio.get_running_loop().time() + seconds
        for limit in (*self._waiting, *self._under_way):
            _bring_forward(limit, self._not_after)

    def make_room(self) -> None:
        """Somebody found no room, which bodies that never come may fill, also those that wait for a place:
        the oldest has no more than `FAIR_SECONDS` to wait or to arrive.
        """
        _hurry_the_oldest({**self._under_way, **self._waiting})

    async def _wait(self, limit: asyncio.Timeout) -> None:
        if self._places.locked():
            _hurry_the_oldest(self._under_way)
        self._waiting[limit] = asyncio.get_running_loop().time()
        try:
            await self._places.acquire()
        finally:
            del self._waiting[limit]


def _hurry_the_oldest(bodies: Mapping[asyncio.Timeout, float]) -> None:
    now = asyncio.get_running_loop().time()
    for limit, started in bodies.items():
        if _bring_forward(limit, max(now, started + FAIR_SECONDS)):
            return


def _bring_forward(limit: asyncio.Timeout, to: float) -> bool:
    """Whether `limit` was later than that."""
    when = limit.when()
    if limit.expired() or when is None or when <= to:
        return False
    limit.reschedule(to)
    return True
