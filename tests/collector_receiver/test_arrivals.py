"""Bodies have a bounded time to arrive, and slow ones do not keep others out."""

import asyncio

import pytest

from collector_receiver import arrivals
from collector_receiver.arrivals import Arrivals

pytestmark = pytest.mark.anyio


async def trickle(places, seconds=60.0):
    """A body that never ends; whether it was given up."""
    try:
        async with places.one(seconds):
            await asyncio.Event().wait()
    except TimeoutError:
        return True
    return False


async def test_a_body_that_never_ends_is_given_up():
    assert await asyncio.wait_for(trickle(Arrivals(1), seconds=0.01), 20)


async def test_slow_bodies_make_room_for_those_that_wait(monkeypatch):
    # Given as many bodies that never end as there are places
    monkeypatch.setattr(arrivals, "FAIR_SECONDS", 0.05)
    places = Arrivals(2)
    slow = [asyncio.create_task(trickle(places)) for _ in range(2)]
    await asyncio.sleep(0)

    # When another one comes
    async with asyncio.timeout(20), places.one(60):
        pass

    # Then the oldest was given up, and only that one
    assert await asyncio.wait_for(slow[0], 20)
    await asyncio.sleep(0.2)
    assert not slow[1].done()
    slow[1].cancel()
    await asyncio.wait(slow)


async def test_they_make_room_however_many_they_are(monkeypatch):
    # Given more than three times as many bodies that never end as there are places
    monkeypatch.setattr(arrivals, "FAIR_SECONDS", 0.05)
    places = Arrivals(2)
    slow = [asyncio.create_task(trickle(places)) for _ in range(7)]
    await asyncio.sleep(0)

    # When another one comes
    async with asyncio.timeout(20), places.one(60):
        pass

    # Then all were given up but the last, which had the other place
    assert all([await asyncio.wait_for(body, 20) for body in slow[:6]])
    slow[6].cancel()
    await asyncio.wait(slow)


@pytest.mark.parametrize("bodies", [1, 3], ids=["under way", "waiting too"])
async def test_what_never_comes_makes_room_where_there_is_none(monkeypatch, bodies):
    # Given bodies that never end, one of which has the place
    places = Arrivals(1)
    slow = [asyncio.create_task(trickle(places)) for _ in range(bodies)]
    await asyncio.sleep(0)

    # When as many others find no room
    monkeypatch.setattr(arrivals, "FAIR_SECONDS", 0.0)
    for _ in range(bodies):
        places.make_room()

    # Then all of them are given up
    assert all([await asyncio.wait_for(body, 20) for body in slow])


async def test_a_body_behind_which_nobody_waits_has_all_its_time(monkeypatch):
    monkeypatch.setattr(arrivals, "FAIR_SECONDS", 0.0)
    places = Arrivals(1)
    slow, last = (asyncio.create_task(trickle(places)) for _ in range(2))

    assert await asyncio.wait_for(slow, 20)

    await asyncio.sleep(0.05)
    assert not last.done()
    last.cancel()
    await asyncio.wait({last})


async def test_the_wait_for_a_place_is_bounded_too(monkeypatch):
    # Given a body that keeps the only place
    monkeypatch.setattr(arrivals, "FAIR_SECONDS", 60.0)
    places = Arrivals(1)
    slow = asyncio.create_task(trickle(places))
    await asyncio.sleep(0)

    # When another one waits for it
    given_up = await asyncio.wait_for(trickle(places, seconds=0.01), 20)

    # Then it is given up, and takes no place from those that come later
    assert given_up
    assert not slow.done()
    slow.cancel()
    await asyncio.wait({slow})
    async with asyncio.timeout(20), places.one(60):
        pass


async def test_nobody_is_hurried_while_there_is_room(monkeypatch):
    monkeypatch.setattr(arrivals, "FAIR_SECONDS", 0.0)
    places = Arrivals(2)
    slow = asyncio.create_task(trickle(places))
    await asyncio.sleep(0)

    for _ in range(3):
        async with places.one(60):
            await asyncio.sleep(0.01)

    assert not slow.done()
    slow.cancel()
    await asyncio.wait({slow})


async def test_hurry_bounds_those_under_way_those_that_wait_and_those_to_come():
    places = Arrivals(1)
    under_way, waiting = (asyncio.create_task(trickle(places)) for _ in range(2))
    await asyncio.sleep(0)

    places.hurry(0.01)

    async with asyncio.timeout(20):
        assert await under_way
        assert await waiting
        assert await trickle(places)
