"""What can be told apart is sampled, a few at a time; for the rest there is no profile."""

from __future__ import annotations

import asyncio
import sys

import greenlet
import pytest

from otel_pyinstrument.engine import MAX_REQUESTS_PER_SHARED_THREAD, Engine
from otel_pyinstrument.segment import Segment
from otel_pyinstrument.settings import Settings


@pytest.fixture
def engine() -> Engine:
    return Engine(Settings(rate=1))


def nobody() -> bool:
    return False


def test_nothing_is_opened_in_a_callback_of_an_event_loop(engine: Engine) -> None:
    # Given code on a loop that belongs to no task
    async def main() -> object:
        opened = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: opened.set_result(engine.open(nobody)))
        return await opened

    # Then it could not be told from others
    assert asyncio.run(main()) is None
    assert sys.getprofile() is None


def test_the_greenlets_of_one_thread_are_capped(engine: Engine) -> None:
    # When more greenlets than the cap ask at the same time
    opened: list[Segment | None] = []

    def handler() -> None:
        segment = engine.open(nobody)
        opened.append(segment)
        greenlet.getcurrent().parent.switch()
        if segment is not None:
            segment.close()

    for _ in range(2):
        running = [greenlet.greenlet(handler) for _ in range(MAX_REQUESTS_PER_SHARED_THREAD + 3)]
        for each in running * 2:
            each.switch()

    # Then only so many are sampled, for each sees the turns of all, and the places are free again
    assert sum(segment is not None for segment in opened) == 2 * MAX_REQUESTS_PER_SHARED_THREAD
    assert sys.getprofile() is None


def test_the_requests_of_one_event_loop_are_not_capped(engine: Engine) -> None:
    # When many tasks ask at the same time
    async def handler() -> bool:
        segment = engine.open(nobody)
        await asyncio.sleep(0.01)
        return segment is not None and segment.close() is not None

    async def main() -> list[bool]:
        return await asyncio.gather(*(handler() for _ in range(5 * MAX_REQUESTS_PER_SHARED_THREAD)))

    # Then all are sampled, because each is sampled in its own turns only
    assert all(asyncio.run(main()))
    assert sys.getprofile() is None


def test_a_thread_with_asyncio_loaded_but_no_loop_is_fine(engine: Engine) -> None:
    segment = engine.open(nobody)

    assert segment is not None
    assert sys.getprofile() is not None
    engine.stop_all()
    assert sys.getprofile() is None
