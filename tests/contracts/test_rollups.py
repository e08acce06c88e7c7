"""Statistics say what the acknowledged records say, whatever was rolled up, repeated or interrupted."""

from __future__ import annotations

import asyncio
import math
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.asynchronous.collection import AsyncCollection

from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode
from profile_store import StoreSettings, open_store
from profile_store.contracts import StoreUnavailable
from profile_store.model import IncomingBatch, IncomingProfile, IncomingRecord, Record
from profile_store.mongodb import (
    rollup_marks,
    rollup_reader,
    rollup_sources,
    rollup_tree_reader,
    rollup_trees,
    rollups,
)
from profile_store.mongodb.sharding import SHARD_KEYS
from profile_store.rollups import bucket as bucket_module
from profile_store.rollups.answers import RequestFilter, RollUpStep
from profile_store.rollups.histogram import (
    GAMMA,
    MAX_DURATION_US,
    MAX_INDEX,
    LatencyHistogram,
    bucket_index,
)
from profile_store.rollups.loop import rolling_up

pytestmark = pytest.mark.anyio

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
COLLECTIONS = ("rollup_minutes", "rollup_hours", "rollup_trees", "rollup_versions", "rollup_marks")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers mark each batch, and rollers trust a mark that they see for the second time."""
    monkeypatch.setattr(rollup_marks, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(rollup_marks, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def hour() -> datetime:
    """The beginning of an hour that has just ended, but for some minutes."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 2 * HOUR


async def write(store, *items: Record | IncomingRecord, **batch: Any) -> None:
    records = [item if isinstance(item, IncomingRecord) else IncomingRecord(record=item) for item in items]
    result = await store.write(IncomingBatch(records=records, **batch))
    assert list(result.refusals) == []


async def roll_up_everything(store) -> None:
    """Until no mark is left."""
    for _ in range(1_000):
        step = await store.roll_up()
        if not step.waiting and not step.settling and not step.minutes and not step.trees:
            return
    pytest.fail("the marks never end")


def whole(project_id: str, hour: datetime, **names: str) -> RequestFilter:
    return RequestFilter(project_id=project_id, start=hour - 24 * HOUR, end=hour + 4 * HOUR, **names)


def exact_quantile_ms(records: list[Record], share: float) -> float:
    durations = sorted(record.duration for record in records)
    return durations[max(1, math.ceil(share * len(durations))) - 1] * 1_000


def many_records(make, project_id: str, hour: datetime, count: int = 60) -> list[Record]:
    """Over two hours, three endpoints, two versions and environments; every tenth failed."""
    return [
        make.record(
            project_id,
            timestamp=hour + timedelta(seconds=117.7 * n),
            endpoint=f"GET /{'abc'[n % 3]}",
            method="POST" if n % 5 == 0 else "GET",
            version=f"1.{n % 2}",
            environment="staging" if n % 7 == 0 else "production",
            status_code=[200, 404, None, 503][n % 4],
            failed=n % 10 == 0,
            duration=0.001 * 1.15 ** (n % 50),
        )
        for n in range(count)
    ]


def assert_measures(measures, records: list[Record]) -> None:
    """Every number of `measures` is that of the records."""
    assert measures.count == len(records)
    if not records:
        return
    assert measures.failed == sum(record.failed for record in records)
    classes = Counter((record.status_code or 0) // 100 for record in records)
    assert measures.status_classes == [classes[n] for n in range(6)]
    assert measures.duration_us == pytest.approx(sum(r.duration for r in records) * 1e6, abs=len(records))
    assert measures.min_us == pytest.approx(min(r.duration for r in records) * 1e6, abs=1)
    assert measures.max_us == pytest.approx(max(r.duration for r in records) * 1e6, abs=1)
    for share in (0, 0.5, 0.95, 0.99, 1):
        quantile_us = measures.quantile_us(share)
        assert quantile_us / 1_000 == pytest.approx(exact_quantile_ms(records, share), rel=0.0101)


@pytest.mark.parametrize("rolled_up", [False, True])
async def test_statistics_are_those_of_the_records(
    store, project_id, make, hour, no_waiting, rolled_up, monkeypatch
):
    # Given requests that are rolled up, or still only records
    monkeypatch.setattr(rollup_reader, "MAX_LIVE_MINUTES", 1_000)
    records = many_records(make, project_id, hour)
    await write(store, *records)
    if rolled_up:
        await roll_up_everything(store)
    # Then all of them are counted, in any group
    statistics = await store.statistics(whole(project_id, hour))
    assert_measures(statistics.overall, records)
    assert (statistics.groups, statistics.minutes_behind) == ({}, 0)
    for field in ("endpoint", "method", "version", "environment"):
        groups = (await store.statistics(whole(project_id, hour), group_by=field)).groups
        values = {getattr(record, field) for record in records}
        assert set(groups) == values
        for value in values:
            assert_measures(groups[value], [r for r in records if getattr(r, field) == value])
        totals = [measures.duration_us for measures in groups.values()]
        assert totals == sorted(totals, reverse=True)


async def test_filters_hold_together_and_an_empty_name_is_a_name(store, project_id, make, hour, no_waiting):
    records = [*many_records(make, project_id, hour), make.record(project_id, timestamp=hour, version="")]
    await write(store, *records)
    await roll_up_everything(store)
    wanted = {"endpoint": "GET /a", "version": "1.0", "environment": "staging", "method": "GET"}
    matching = [r for r in records if all(getattr(r, name) == value for name, value in wanted.items())]
    assert matching
    assert_measures((await store.statistics(whole(project_id, hour, **wanted))).overall, matching)
    assert (await store.statistics(whole(project_id, hour, version=""))).overall.count == 1
    assert (await store.statistics(whole(project_id, hour, version="9"))).overall.count == 0


@pytest.mark.parametrize("rolled_up", [False, True])
async def test_a_window_ends_to_the_millisecond(store, project_id, make, hour, no_waiting, rolled_up):
    # Given a request every second over three minutes
    records = [make.record(project_id, timestamp=hour + timedelta(seconds=n)) for n in range(180)]
    await write(store, *records)
    if rolled_up:
        await roll_up_everything(store)
    # When windows begin and end within minutes, or in one
    for start, end in ((10, 170), (59, 121), (60, 120), (20, 40), (30, 30)):
        window = RequestFilter(
            project_id=project_id, start=hour + timedelta(seconds=start), end=hour + timedelta(seconds=end)
        )
        # Then the start counts and the end does not
        assert (await store.statistics(window)).overall.count == end - start


async def test_a_series_has_every_request_in_its_step(store, project_id, make, hour, no_waiting):
    # Given requests of two hours, all but the newest rolled up
    records = many_records(make, project_id, hour)
    await write(store, *records[:-5])
    await roll_up_everything(store)
    await write(store, *records[-5:])
    window = RequestFilter(project_id=project_id, start=hour - HOUR, end=hour + 3 * HOUR)
    for resolution in (MINUTE, 5 * MINUTE, HOUR, 90 * MINUTE, 24 * HOUR):
        # When
        series = await store.series(window, resolution)
        # Then the points stand side by side, and each has its requests
        starts = [point.start for point in series.points]
        assert starts[0] <= window.start < starts[0] + resolution
        assert starts[-1] < window.end <= starts[-1] + resolution
        assert {later - earlier for earlier, later in pairwise(starts)} <= {resolution}
        for point in series.points:
            end = point.start + resolution
            assert_measures(point.measures, [r for r in records if point.start <= r.timestamp < end])


async def test_late_and_repeated_requests_correct_the_numbers(store, project_id, make, hour, no_waiting):
    records = many_records(make, project_id, hour)
    early, late = records[::2], records[1::2]
    await write(store, *early)
    await roll_up_everything(store)
    # When the other half comes after its minutes were rolled up, and the first half once more
    await write(store, *late, *early)
    await roll_up_everything(store)
    # Then each counts once
    assert_measures((await store.statistics(whole(project_id, hour))).overall, records)


async def test_every_acknowledged_request_is_counted_at_once(store, project_id, make, hour):
    # Given real times: marks settle after ten seconds
    for count in range(1, 6):
        await write(store, make.record(project_id, timestamp=hour))
        await store.roll_up()
        assert (await store.statistics(whole(project_id, hour))).overall.count == count


async def test_a_request_from_the_far_future_is_in_no_statistics(store, project_id, make, database):
    await write(store, make.record(project_id, timestamp=datetime.now(UTC) + timedelta(days=2)))
    assert database.rollup_marks.count_documents({}) == 0


class FakeSeconds:
    """The clock of writer and roller, moved by the test."""

    def __init__(self, store) -> None:
        self.now = 1_000.0
        store._marks._seconds = store._settling._seconds = lambda: self.now


async def test_a_steady_load_writes_one_mark_every_few_seconds(store, project_id, make, hour, database):
    # Given a mark
    clock = FakeSeconds(store)
    await write(store, make.record(project_id, timestamp=hour))
    first = database.rollup_marks.find_one()["value"]
    # When more requests of that minute come within five seconds
    clock.now += 4.9
    await write(store, make.record(project_id, timestamp=hour))
    assert database.rollup_marks.find_one()["value"] == first
    # Then the mark is written again only after that
    clock.now += 0.2
    await write(store, make.record(project_id, timestamp=hour))
    assert database.rollup_marks.find_one()["value"] != first


async def test_a_writer_remembers_a_bounded_number_of_marks(store, project_id, make, hour, monkeypatch):
    # Given room for four marks
    monkeypatch.setattr(rollup_marks, "_MAX_REMEMBERED", 4)
    # When requests of many more minutes come
    for n in range(20):
        await write(store, make.record(project_id, timestamp=hour + n * MINUTE))
        # Then no more are remembered
        assert len(store._marks._fresh_until) <= 4


async def test_no_mark_is_lost_whenever_the_roller_comes(store, project_id, make, hour, database):
    """Writers skip marks that are younger than 5 s; a roller at any moment must not lose what they skip."""
    clock = FakeSeconds(store)
    window = whole(project_id, hour)
    written = 0
    # Given a roller that steps between any two writes, at distances below and above both limits
    for pause in (0, 1, 3.9, 0, 4.9, 0.2, 5.1, 0, 9.9, 0.2, 10.1, 0, 4.9, 4.9, 4.9, 11, 0.1, 20, 3):
        await write(store, make.record(project_id, timestamp=hour))
        written += 1
        clock.now += pause
        await store.roll_up()
        # Then all that was acknowledged is counted at any time
        assert (await store.statistics(window)).overall.count == written
    clock.now += 11
    await store.roll_up()
    await store.roll_up()
    await store.roll_up()
    # And from the rollups alone in the end
    assert database.rollup_marks.count_documents({"kind": "minute"}) == 0
    assert database.rollup_hours.find_one()["count"] == written


async def test_a_batch_during_a_roll_up_keeps_its_mark(
    store, project_id, make, hour, no_waiting, database, monkeypatch
):
    # Given a roller that has read a minute, and has not deleted its mark yet
    await write(store, make.record(project_id, timestamp=hour))
    await store.roll_up()
    read = store._sources.requests

    async def read_then_another_request_comes(*arguments: Any) -> Any:
        rolled = await read(*arguments)
        await write(store, make.record(project_id, timestamp=hour))
        return rolled

    monkeypatch.setattr(store._sources, "requests", read_then_another_request_comes)
    # When it goes on
    assert (await store.roll_up()).minutes == 1
    # Then the mark is still there, and the next step counts the new request
    monkeypatch.setattr(store._sources, "requests", read)
    assert database.rollup_hours.find_one()["count"] == 1
    assert (await store.statistics(whole(project_id, hour))).overall.count == 2
    await roll_up_everything(store)
    assert database.rollup_hours.find_one()["count"] == 2


async def test_a_mark_that_cannot_be_written_is_no_acknowledgement(
    store, project_id, make, monkeypatch, database
):
    # Given a crash after the records are durable and before their mark
    class Killed(BaseException):
        pass

    async def killed(*_: Any, **__: Any) -> None:
        raise Killed

    record = make.record(project_id)
    with monkeypatch.context() as patched:
        patched.setattr(rollup_marks, "upsert_all", killed)
        with pytest.raises(Killed):
            await write(store, record)
    assert database.performance_records.count_documents({}) == 1
    assert database.rollup_marks.count_documents({}) == 0
    # When the sender, who has no answer, repeats
    await write(store, record)
    # Then the mark is there, although nothing new was stored
    assert database.rollup_marks.count_documents({}) == 1


async def test_a_profile_that_comes_later_marks_the_minute_of_its_request(
    store, project_id, make, hour, no_waiting, database
):
    # Given a request that is rolled up
    record = make.record(project_id, timestamp=hour)
    await write(store, record)
    await roll_up_everything(store)
    late = IncomingProfile(
        project_id=project_id,
        trace_id=record.trace_id,
        span_id=record.span_id,
        timestamp=datetime.now(UTC),
        payload=make.payload(),
        profile=make.profile,
    )
    # When its profile comes, twice
    for _ in range(2):
        await write(store, profiles=[late])
        assert [mark["start"] for mark in database.rollup_marks.find()] == [hour]
        await roll_up_everything(store)
    # Then it is counted
    assert (await store.statistics(whole(project_id, hour))).overall.profiles == 1
    assert (await store.merged_call_tree(whole(project_id, hour, endpoint=record.endpoint))).profiles == 1


def contents(database) -> dict[str, list[dict[str, Any]]]:
    """Everything rolled up, without what differs from run to run."""
    hidden = {"_id": False, "revision": False, "computed_at": False, "value": False}
    found = {name: list(database[name].find({}, hidden)) for name in COLLECTIONS}
    return {name: sorted(documents, key=repr) for name, documents in found.items()}


def forget_rollups(database) -> None:
    for name in COLLECTIONS:
        database[name].delete_many({})


async def test_a_roller_that_dies_between_any_two_writes_changes_nothing(
    store, project_id, make, hour, no_waiting, database, mongodb_url, monkeypatch
):
    # Given minutes of two hours, with profiles, and what an undisturbed roller makes of them
    records = [
        make.profiled(make.record(project_id, timestamp=hour + n * 35 * MINUTE, version=f"1.{n}"))
        for n in range(3)
    ]
    await write(store, *records)
    await roll_up_everything(store)
    expected = contents(database)
    assert [len(expected[name]) for name in COLLECTIONS] == [3, 2, 3, 3, 0]

    class Killed(BaseException):
        """Not even a handler of every exception stops it."""

    writes_left = 0

    def deadly(write: Callable[..., Any]) -> Callable[..., Any]:
        async def attempt(*arguments: Any, **options: Any) -> Any:
            nonlocal writes_left
            if not writes_left:
                raise Killed
            writes_left -= 1
            return await write(*arguments, **options)

        return attempt

    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database.name)
    deaths = 0
    while True:
        # When a roller dies after so many writes, and another one goes on
        forget_rollups(database)
        await store.request_roll_up(project_id, hour, hour + 2 * HOUR)
        with monkeypatch.context() as patched:
            for name in ("insert_one", "replace_one", "bulk_write", "delete_one", "update_one"):
                patched.setattr(AsyncCollection, name, deadly(getattr(AsyncCollection, name)))
            writes_left = deaths
            try:
                async with open_store(settings) as dying:
                    await roll_up_everything(dying)
            except Killed:
                pass
            else:
                break
        async with open_store(settings) as other:
            await roll_up_everything(other)
        # Then the result is the same
        assert contents(database) == expected
        deaths += 1
    assert deaths >= 15


async def test_an_older_result_never_replaces_a_newer_one(
    store, project_id, make, hour, no_waiting, database, mongodb_url, monkeypatch
):
    # Given a minute that was rolled up before, and a roller that has read it again and then hangs
    await write(store, make.record(project_id, timestamp=hour))
    await roll_up_everything(store)
    await write(store, make.record(project_id, timestamp=hour))
    await store.roll_up()
    has_read, may_go_on = asyncio.Event(), asyncio.Event()
    read = store._sources.requests

    async def read_and_hang(*arguments: Any) -> Any:
        rolled = await read(*arguments)
        has_read.set()
        await may_go_on.wait()
        return rolled

    with monkeypatch.context() as patched:
        patched.setattr(store._sources, "requests", read_and_hang)
        slow = asyncio.create_task(store.roll_up())
        await has_read.wait()
        # When a third request comes, and another roller counts all and deletes the mark
        settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database.name)
        async with open_store(settings) as other:
            await write(other, make.record(project_id, timestamp=hour))
            await roll_up_everything(other)
        assert database.rollup_minutes.find_one()["count"] == 3
        may_go_on.set()
        await slow
    # Then the slow one gives up
    await roll_up_everything(store)
    assert database.rollup_minutes.find_one()["count"] == 3
    assert database.rollup_hours.find_one()["count"] == 3


async def test_an_hour_of_two_rollers_at_once_has_the_minutes_of_both(
    store, project_id, make, hour, no_waiting, database, mongodb_url, monkeypatch
):
    # Given an hour that was rolled up before, and a roller that has read its minutes again and then hangs
    await write(store, make.record(project_id, timestamp=hour))
    await roll_up_everything(store)
    await write(store, make.record(project_id, timestamp=hour))
    await store.roll_up()
    loop = asyncio.get_running_loop()
    has_read, may_go_on = asyncio.Event(), threading.Event()
    merge_minutes = rollups._merged_minutes

    def hang_once(minutes: Any) -> Any:
        monkeypatch.setattr(rollups, "_merged_minutes", merge_minutes)
        loop.call_soon_threadsafe(has_read.set)
        may_go_on.wait(60)
        return merge_minutes(minutes)

    monkeypatch.setattr(rollups, "_merged_minutes", hang_once)
    slow = asyncio.create_task(store.roll_up())
    await has_read.wait()
    # When another roller adds a minute to that hour
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database.name)
    async with open_store(settings) as other:
        await write(other, make.record(project_id, timestamp=hour + MINUTE))
        await other.roll_up()
        await other.roll_up()
        assert database.rollup_hours.find_one()["count"] == 3
    may_go_on.set()
    await slow
    await roll_up_everything(store)
    # Then the hour has both
    assert database.rollup_hours.find_one()["count"] == 3


async def test_three_rollers_and_two_writers_at_once_lose_nothing(
    store, project_id, make, hour, database, mongodb_url, monkeypatch
):
    # Given short times, so that marks are skipped, settle and are deleted all the time
    monkeypatch.setattr(rollup_marks, "FRESH_SECONDS", 0.05)
    monkeypatch.setattr(rollup_marks, "SETTLE_SECONDS", 0.1)
    settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database.name)
    written = 0
    writing = True

    async def writer(client) -> None:
        nonlocal written
        for n in range(60):
            at = [hour + ((n * 7 + k) % 12) * MINUTE for k in range(3)]
            await write(client, *(make.record(project_id, timestamp=time) for time in at))
            written += 3
            await asyncio.sleep(0.005)

    async def roller(client) -> None:
        while writing:
            await client.roll_up()
            await asyncio.sleep(0.02)

    async with open_store(settings) as second, open_store(settings) as third:
        rollers = [asyncio.create_task(roller(client)) for client in (store, second, third)]
        await asyncio.gather(writer(store), writer(second))
        writing = False
        await asyncio.gather(*rollers)
        deadline = asyncio.get_running_loop().time() + 60
        while database.rollup_marks.count_documents({}):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.gather(store.roll_up(), second.roll_up(), third.roll_up())
    # Then the rollups alone have all of them
    assert database.rollup_minutes.count_documents({}) == 12
    assert sum(minute["count"] for minute in database.rollup_minutes.find()) == written
    assert database.rollup_hours.find_one()["count"] == written


async def test_rare_groups_beyond_the_limit_are_counted_together(
    store, project_id, make, hour, no_waiting, monkeypatch
):
    # Given a limit of three groups, and a scanner that makes up endpoints
    monkeypatch.setattr(bucket_module.Bucket.cap, "__defaults__", (3,))
    monkeypatch.setattr(rollup_sources, "_GROUPS_BEFORE_CAP", 4)
    real = [make.record(project_id, timestamp=hour, endpoint=f"GET /{n}") for n in (1, 1, 1, 2, 2, 3, 3)]
    made_up = [make.record(project_id, timestamp=hour, endpoint=f"GET /{n}.php") for n in range(50)]
    await write(store, *made_up, *real)
    await roll_up_everything(store)
    # Then the real ones are told apart, and nothing is lost
    groups = (await store.statistics(whole(project_id, hour), group_by="endpoint")).groups
    assert {name: measures.count for name, measures in groups.items()} == {
        "GET /1": 3,
        "GET /2": 2,
        "GET /3": 2,
        "[other]": 50,
    }
    assert (await store.statistics(whole(project_id, hour))).overall.count == 57
    assert set(await store.endpoints(project_id)) == {"GET /1", "GET /2", "GET /3"}


def payload_of(*stacks: tuple[list[str], float]) -> bytes:
    builder = CallTreeBuilder()
    for stack, seconds in stacks:
        builder.add(stack, seconds)
    return encode(builder.build(lambda name: Frame(name, f"shop/{name}.py", 3, True))).payload


async def write_profiles(store, make, project_id: str, times: list[datetime], **changes: Any) -> None:
    """Each with 100 ms in `query` below `view`, and 20 ms of its own."""
    items = []
    for time in times:
        item = make.profiled(make.record(project_id, timestamp=time, **changes))
        payload = payload_of((["view", "query"], 0.1), (["view"], 0.02))
        items.append(IncomingRecord(record=item.record, payload=payload))
    await write(store, *items)


@pytest.mark.parametrize("rolled_up", [False, True])
async def test_the_call_trees_of_an_endpoint_are_added_up(
    store, project_id, make, hour, no_waiting, rolled_up
):
    # Given profiles of two versions over two hours, and of another endpoint
    times = [hour + n * 20 * MINUTE for n in range(6)]
    await write_profiles(store, make, project_id, times, endpoint="GET /a", version="1.0")
    await write_profiles(store, make, project_id, times[:2], endpoint="GET /a", version="1.1")
    await write_profiles(store, make, project_id, times[:1], endpoint="GET /b")
    if rolled_up:
        await roll_up_everything(store)
    # Then the tree of one version, or of all, is their exact sum
    one = await store.merged_call_tree(whole(project_id, hour, endpoint="GET /a", version="1.1"))
    every = await store.merged_call_tree(whole(project_id, hour, endpoint="GET /a"))
    for found, count in ((one, 2), (every, 8)):
        found.tree.self_check()
        assert (found.profiles, found.profiles_seen, found.behind) == (count, count, False)
        assert found.tree.duration_us == count * 120_000
        assert [frame.function for frame in found.tree.frames] == ["[request]", "view", "query"]
        assert [(f.frame.function, f.self_us, f.total_us) for f in found.hot_functions] == [
            ("query", count * 100_000, count * 100_000),
            ("view", count * 20_000, count * 120_000),
        ]
    # And an hour alone can be asked for
    first = RequestFilter(project_id=project_id, start=hour, end=hour + MINUTE, endpoint="GET /a")
    assert (await store.merged_call_tree(first)).profiles == 5
    assert await store.merged_call_tree(whole(project_id, hour, endpoint="GET /none")) is None


async def hottest_us(store, question: RequestFilter) -> dict[str, int]:
    """By endpoint, the time of its hottest function."""
    hot = (await store.hot_functions(question)).by_endpoint
    return {endpoint: functions[0].self_us for endpoint, functions in hot.items()}


async def test_hot_functions_are_known_of_each_endpoint(store, project_id, make, hour, no_waiting):
    await write_profiles(store, make, project_id, [hour, hour + HOUR], endpoint="GET /a")
    await write_profiles(store, make, project_id, [hour], endpoint="GET /b", version="2")
    await roll_up_everything(store)
    assert await hottest_us(store, whole(project_id, hour)) == {"GET /a": 200_000, "GET /b": 100_000}
    assert await hottest_us(store, whole(project_id, hour, version="2")) == {"GET /b": 100_000}


@pytest.mark.parametrize("rolled_up", [False, True])
async def test_call_trees_are_those_of_every_name_that_is_asked_for(
    store, project_id, make, hour, no_waiting, rolled_up
):
    # Given profiles of one endpoint and version in one hour, of two environments and two methods
    counts = {("GET", "production"): 4, ("GET", "staging"): 2, ("POST", "staging"): 1}
    for (method, environment), count in counts.items():
        names = {"endpoint": "/a", "version": "1.0", "method": method, "environment": environment}
        await write_profiles(store, make, project_id, [hour] * count, **names)
    if rolled_up:
        await roll_up_everything(store)
    # When some of them are asked for
    for names, count in (
        ({}, 7),
        ({"environment": "staging"}, 3),
        ({"method": "GET"}, 6),
        ({"method": "GET", "environment": "staging", "version": "1.0"}, 2),
        ({"method": "POST", "environment": "production"}, 0),
    ):
        question = whole(project_id, hour, endpoint="/a", **names)
        found = await store.merged_call_tree(question)
        # Then those and no others are in the answer
        assert (found and (found.profiles, found.tree.duration_us)) == (
            (count, count * 120_000) if count else None
        )
        if rolled_up:
            assert await hottest_us(store, question) == ({"/a": count * 100_000} if count else {})


async def test_a_group_that_others_overtake_keeps_the_call_tree_that_it_has(
    store, project_id, make, hour, no_waiting, monkeypatch
):
    # Given an hour of which two groups may have call trees, and has two
    monkeypatch.setattr(rollup_trees, "MAX_TREES_PER_HOUR", 2)
    for endpoint, count in (("GET /a", 3), ("GET /b", 2)):
        await write_profiles(store, make, project_id, [hour] * count, endpoint=endpoint)
    await roll_up_everything(store)
    # When two others have more profiles later
    for endpoint, count in (("GET /c", 4), ("GET /d", 5)):
        await write_profiles(store, make, project_id, [hour] * count, endpoint=endpoint)
    await roll_up_everything(store)
    # Then these have theirs, and the first ones what they had
    for endpoint, count in (("GET /a", 3), ("GET /b", 2), ("GET /c", 4), ("GET /d", 5)):
        found = await store.merged_call_tree(whole(project_id, hour, endpoint=endpoint))
        assert found.profiles == count


async def test_of_more_groups_than_may_have_call_trees_the_rarest_has_none(
    store, project_id, make, hour, no_waiting, monkeypatch
):
    # Given three groups of which two may have call trees
    monkeypatch.setattr(rollup_trees, "MAX_TREES_PER_HOUR", 2)
    for endpoint, count in (("GET /a", 1), ("GET /b", 2), ("GET /c", 3)):
        await write_profiles(store, make, project_id, [hour] * count, endpoint=endpoint)
    # When they are rolled up
    await roll_up_everything(store)
    # Then those with the most profiles have them
    assert set(await hottest_us(store, whole(project_id, hour))) == {"GET /b", "GET /c"}


async def test_a_window_within_hours_is_answered_with_the_call_trees_of_the_whole_hours(
    store, project_id, make, hour, no_waiting
):
    # Given profiles at the beginning and the end of two hours
    times = [hour, hour + 59 * MINUTE, hour + HOUR, hour + 119 * MINUTE]
    await write_profiles(store, make, project_id, times, endpoint="GET /a")
    await roll_up_everything(store)
    # When some minutes within the first hour are asked for, or some of both hours
    for minutes, hours in (((20, 30), 1), ((30, 90), 2), ((0, 60), 1)):
        start, end = [hour + minute * MINUTE for minute in minutes]
        question = RequestFilter(project_id=project_id, start=start, end=end, endpoint="GET /a")
        tree, hot = await store.merged_call_tree(question), await store.hot_functions(question)
        # Then the answer has all profiles of these hours, and names them
        assert tree.profiles == 2 * hours
        assert hot.by_endpoint["GET /a"][0].self_us == 2 * hours * 100_000
        assert (tree.start, tree.end) == (hot.start, hot.end) == (hour, hour + hours * HOUR)


async def test_of_very_many_profiles_a_sample_is_merged_and_the_number_told(
    store, project_id, make, hour, no_waiting, monkeypatch, database
):
    monkeypatch.setattr(rollup_sources, "MAX_PROFILES_PER_TREE", 5)
    times = [hour + timedelta(seconds=n) for n in range(20)]
    await write_profiles(store, make, project_id, times, endpoint="GET /a")
    await roll_up_everything(store)
    found = await store.merged_call_tree(whole(project_id, hour, endpoint="GET /a"))
    assert (found.profiles, found.profiles_seen) == (5, 20)
    assert found.tree.duration_us == 5 * 120_000
    # And computing it again takes the same sample
    [before] = database.rollup_trees.find()
    forget_rollups(database)
    await store.request_roll_up(project_id, hour, hour + HOUR)
    await roll_up_everything(store)
    [after] = database.rollup_trees.find()
    assert (after["payload"], after["fingerprint"]) == (before["payload"], before["fingerprint"])


async def test_too_many_new_profiles_leave_the_tree_behind_and_say_so(
    store, project_id, make, hour, no_waiting, monkeypatch
):
    await write_profiles(store, make, project_id, [hour] * 3, endpoint="GET /a")
    await roll_up_everything(store)
    await write_profiles(store, make, project_id, [hour] * 2, endpoint="GET /a")
    question = whole(project_id, hour, endpoint="GET /a")
    monkeypatch.setattr(rollup_tree_reader, "MAX_LIVE_PROFILES", 4)
    found = await store.merged_call_tree(question)
    assert (found.profiles, found.behind) == (3, True)
    monkeypatch.setattr(rollup_tree_reader, "MAX_LIVE_PROFILES", 5)
    found = await store.merged_call_tree(question)
    assert (found.profiles, found.behind) == (5, False)


async def test_no_more_than_some_unfinished_hours_are_merged_for_one_question(
    store, project_id, make, hour, no_waiting, monkeypatch
):
    # Given three hours that are not rolled up, of which an answer may merge two
    monkeypatch.setattr(rollup_tree_reader, "MAX_LIVE_HOURS", 2)
    await write_profiles(store, make, project_id, [hour - n * HOUR for n in range(3)], endpoint="GET /a")
    # When their call trees are asked for
    found = await store.merged_call_tree(whole(project_id, hour, endpoint="GET /a"))
    # Then the answer has two of them, and says that it is behind
    assert (found.profiles, found.behind) == (2, True)


async def test_the_running_hour_is_merged_at_once_and_then_every_ten_minutes(
    store, project_id, make, no_waiting
):
    # Given a profile of the running hour
    now = store._clock()
    monotonic = [now]
    store._trees._clock = lambda: monotonic[0]
    await write_profiles(store, make, project_id, [now], endpoint="GET /a")
    assert sum([(await store.roll_up()).trees for _ in range(4)]) == 1
    # When another one comes a minute later
    await write_profiles(store, make, project_id, [now], endpoint="GET /a")
    monotonic[0] += MINUTE
    hour_end = now.replace(minute=0, second=0, microsecond=0) + HOUR
    steps = [await store.roll_up() for _ in range(4)]
    # Then its hour waits for its turn, unless it ended meanwhile
    assert sum(step.trees for step in steps) == (1 if monotonic[0] >= hour_end else 0)
    monotonic[0] += 10 * MINUTE
    steps += [await store.roll_up() for _ in range(2)]
    assert sum(step.trees for step in steps) == 1


async def test_versions_are_seen_with_their_first_and_last_request(store, project_id, make, hour, no_waiting):
    # Given two versions, of which one goes on after it was rolled up
    def of(version: str, minutes: int) -> Record:
        return make.record(project_id, timestamp=hour + minutes * MINUTE, version=version)

    await write(store, of("1.0", 5), of("1.0", 9), of("", 3), of("1.1", 7))
    await roll_up_everything(store)
    await write(store, of("1.1", 30), of("1.0", 1))
    versions = await store.versions(project_id)
    assert [(v.version, v.first_seen, v.last_seen) for v in versions] == [
        ("1.1", hour + 7 * MINUTE, hour + 30 * MINUTE),
        ("1.0", hour + MINUTE, hour + 9 * MINUTE),
    ]


async def test_cpu_and_database_times_of_profiled_requests_are_added_up(
    store, project_id, make, hour, no_waiting
):
    facts = '{"database": {"count": 3, "duration": 0.05}}'
    await write(
        store,
        make.profiled(make.record(project_id, timestamp=hour, facts=facts)),
        make.profiled(make.record(project_id, timestamp=hour, facts="not json")),
        make.profiled(make.record(project_id, timestamp=hour)),
        make.record(project_id, timestamp=hour),
    )
    await roll_up_everything(store)
    overall = (await store.statistics(whole(project_id, hour))).overall
    assert (overall.count, overall.profiles) == (4, 3)
    assert (overall.cpu_us, overall.cpu_requests) == (600_000, 3)
    assert (overall.database_us, overall.database_calls, overall.database_requests) == (50_000, 3, 2)


async def test_when_marks_pile_up_the_oldest_are_read_as_rolled_up_and_counted(
    store, project_id, make, hour, no_waiting, monkeypatch
):
    monkeypatch.setattr(rollup_reader, "MAX_LIVE_MINUTES", 2)
    await write(store, *(make.record(project_id, timestamp=hour + n * MINUTE) for n in range(5)))
    statistics = await store.statistics(whole(project_id, hour))
    assert (statistics.overall.count, statistics.minutes_behind) == (2, 3)


async def test_a_minute_that_takes_too_long_to_count_is_read_as_rolled_up(
    store, project_id, make, hour, no_waiting, monkeypatch
):
    await write(store, make.record(project_id, timestamp=hour))
    await roll_up_everything(store)
    await write(store, make.record(project_id, timestamp=hour))
    monkeypatch.setattr(rollup_reader, "_LIVE_SECONDS", 0.000_001)
    window = RequestFilter(project_id=project_id, start=hour, end=hour + HOUR)
    statistics = await store.statistics(window)
    assert (statistics.overall.count, statistics.minutes_behind) == (1, 1)


async def test_what_expired_stays_in_statistics(store, project_id, make, hour, no_waiting, database):
    # Given a rolled up minute whose records have expired, but for one that came late
    await write(store, *(make.record(project_id, timestamp=hour) for _ in range(3)))
    await roll_up_everything(store)
    database.performance_records.delete_many({})
    await write(store, make.record(project_id, timestamp=hour))
    # When somebody wants it computed anew
    await store.request_roll_up(project_id, hour, hour + HOUR)
    await roll_up_everything(store)
    # Then the larger number stays
    assert (await store.statistics(whole(project_id, hour))).overall.count == 3


async def test_an_hour_that_has_lost_sources_is_never_computed_anew(
    store, project_id, make, hour, no_waiting, database
):
    await write(
        store, make.record(project_id, timestamp=hour), make.record(project_id, timestamp=hour + MINUTE)
    )
    await roll_up_everything(store)
    # Given an hour whose first minute is gone
    database.rollup_minutes.delete_one({"start": hour})
    database.rollup_hours.update_many({}, {"$set": {"sources_until": hour}})
    await write(store, make.record(project_id, timestamp=hour + MINUTE))
    await roll_up_everything(store)
    assert database.rollup_hours.find_one()["count"] == 2


async def test_rollups_expire_after_what_they_are_made_of(
    store, project_id, make, hour, no_waiting, database
):
    await write_profiles(store, make, project_id, [hour])
    await roll_up_everything(store)
    days = {
        name: (database[name].find_one()["expires_at"] - hour) / timedelta(days=1)
        for name in ("performance_records", "rollup_minutes", "rollup_trees", "rollup_hours")
    }
    assert days == {
        "performance_records": 30,
        "rollup_minutes": 31,
        "rollup_trees": 90,
        "rollup_hours": 400,
    }


async def test_a_deleted_project_gets_no_rollups(store, project_id, make, hour, no_waiting, database):
    await write_profiles(store, make, project_id, [hour])
    database.projects.delete_many({})
    await roll_up_everything(store)
    assert all(not documents for documents in contents(database).values())


async def test_minutes_older_than_the_retention_are_not_computed(
    store, project_id, make, no_waiting, database
):
    await write(store, make.record(project_id, timestamp=datetime.now(UTC) - timedelta(days=31)))
    await roll_up_everything(store)
    assert database.rollup_minutes.count_documents({}) == 0
    assert database.rollup_marks.count_documents({}) == 0


async def test_records_from_before_there_were_rollups_are_found(
    store, project_id, make, hour, no_waiting, database
):
    # Given an older database, to which a newer version has added a request
    records = many_records(make, project_id, hour - 24 * HOUR, 20)
    await write(store, *records)
    forget_rollups(database)
    await write(store, make.record(project_id, timestamp=hour))
    await roll_up_everything(store)
    # When a server starts
    assert await store.request_missing_roll_ups() == len(
        {r.timestamp.replace(second=0, microsecond=0) for r in records}
    )
    await roll_up_everything(store)
    # Then they count, and there is nothing to find a second time
    window = RequestFilter(project_id=project_id, start=hour - 30 * HOUR, end=hour + HOUR)
    assert (await store.statistics(window)).overall.count == 21
    assert await store.request_missing_roll_ups() == 0


async def test_one_project_with_many_minutes_does_not_keep_others_waiting(
    store, project_id, make, hour, no_waiting, database
):
    await write(store, *(make.record(project_id, timestamp=hour - n * MINUTE) for n in range(100)))
    other = (await store.project_for_service("other")).id
    await write(store, make.record(other, timestamp=hour))
    await store.roll_up(max_minutes=20)
    for _ in range(2):
        step = await store.roll_up(max_minutes=20)
        assert step.minutes <= 20
    assert step.waiting > 0
    assert (await store.roll_up(project_id=other)).minutes == 0
    assert database.rollup_marks.count_documents({"project_id": {"$ne": None}, "start": hour}) <= 1


NINES = "9" * 5_000
POISON = {
    "much CPU time": {"cpu_time": 1e308},
    "more CPU time than a call tree can have": {"cpu_time": 8.8e6},
    "more than 64 bits of microseconds of CPU time": {"cpu_time": 2**63 - 1},
    "negative CPU time": {"cpu_time": -1e308},
    "CPU time that is no number": {"cpu_time": math.nan},
    "infinite CPU time": {"cpu_time": math.inf},
    "many queries that took long": {
        "facts": '{"database": {"count": 9223372036854775807, "duration": 9e299}}'
    },
    "negative and infinite": {"facts": '{"database": {"count": -1, "duration": 1e999}}'},
    "integers without end": {"facts": f'{{"database": {{"count": {NINES}, "duration": -{NINES}}}}}'},
    "no payload": {"payload": b""},
    "damaged payload": {
        "payload": zlib.compress(b'{"v": 1, "frames": 1e999, "nodes": {"self_us": [1e308]}}')
    },
}


@pytest.mark.parametrize("rolled_up", [False, True])
async def test_a_status_that_http_does_not_have_counts_as_unknown(
    store, project_id, make, hour, no_waiting, rolled_up
):
    await write(store, *(make.record(project_id, timestamp=hour, status_code=code) for code in (700, 599)))
    if rolled_up:
        await roll_up_everything(store)
    assert (await store.statistics(whole(project_id, hour))).overall.status_classes == [1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("rolled_up", [False, True])
async def test_the_database_counts_into_the_same_buckets_as_python(
    store, project_id, make, hour, no_waiting, rolled_up
):
    # Given requests on both sides of bucket borders, and of the shortest and longest durations
    borders_us = [GAMMA**index * side for index in range(1, MAX_INDEX, 40) for side in (1 - 1e-9, 1 + 1e-9)]
    durations = [us / 1e6 for us in (0.0, 0.5, 1.0, 1.5, *borders_us, MAX_DURATION_US, 2 * MAX_DURATION_US)]
    await write(store, *(make.record(project_id, timestamp=hour, duration=each) for each in durations))
    if rolled_up:
        await roll_up_everything(store)
    # When the database counts them
    counted = (await store.statistics(whole(project_id, hour))).overall.latencies
    # Then each is where Python would put it
    expected = LatencyHistogram()
    for duration in durations:
        expected.add(bucket_index(duration * 1e6))
    assert counted == expected


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
@pytest.mark.parametrize("rolled_up", [False, True])
async def test_values_that_no_request_can_have_count_as_nothing(
    store, project_id, make, hour, no_waiting, rolled_up, poison
):
    # Given a profiled request, and one whose sender tells of it what cannot be
    facts = '{"database": {"count": 3, "duration": 0.05}}'
    good = make.profiled(make.record(project_id, timestamp=hour, facts=facts))
    bad = make.profiled(make.record(project_id, timestamp=hour, facts=poison.get("facts", "{}")))
    profile = replace(make.profile, cpu_time=poison.get("cpu_time", 0.0))
    bad = replace(
        bad, record=replace(bad.record, profile=profile), payload=poison.get("payload", bad.payload)
    )
    # When both are counted
    await write(store, good, bad)
    if rolled_up:
        await roll_up_everything(store)
    overall = (await store.statistics(whole(project_id, hour))).overall
    # Then there are two requests, and the times of the good one
    assert (overall.count, overall.profiles) == (2, 2)
    assert (overall.cpu_us, overall.database_us, overall.database_calls) == (200_000, 50_000, 3)
    tree = await store.merged_call_tree(whole(project_id, hour, endpoint=good.record.endpoint))
    assert tree.profiles == (1 if "payload" in poison else 2)


def break_minute(database, project_id: str, minute: datetime) -> None:
    """The database itself fails when it counts this minute, as with whatever nobody has thought of."""
    database.performance_records.update_many(
        {"project_id": ObjectId(project_id), "timestamp": minute}, {"$set": {"duration": "broken"}}
    )


def assert_failed(step: RollUpStep, project_id: str, minute: datetime) -> None:
    """The first failure of a step."""
    failure = step.failures[0]
    assert (failure.what, failure.project_id) == (f"the minute {minute:%Y-%m-%dT%H:%M}", project_id)
    assert isinstance(failure.error, StoreUnavailable)
    assert failure.what in str(failure.error)
    assert project_id in str(failure.error)


async def test_a_project_whose_roll_up_fails_does_not_keep_the_next_one_waiting(
    store, project_id, make, hour, no_waiting, database
):
    # Given three projects, of which the first and the second have a minute that cannot be counted
    others = [(await store.project_for_service(name)).id for name in ("second", "third")]
    for project in (project_id, *others):
        await write(store, make.record(project, timestamp=hour))
    for project in (project_id, others[0]):
        break_minute(database, project, hour)
    await store.roll_up()
    # When they are rolled up
    step = await store.roll_up()
    # Then the step tells of both
    assert_failed(step, project_id, hour)
    assert [failure.project_id for failure in step.failures] == [project_id, others[0]]
    # And the third one is, and the marks of the others stay
    assert [minute["project_id"] for minute in database.rollup_minutes.find()] == [ObjectId(others[1])]
    assert (await store.statistics(whole(others[1], hour))).overall.count == 1
    marked = {mark["project_id"] for mark in database.rollup_marks.find({"kind": "minute"})}
    assert marked == {ObjectId(project_id), ObjectId(others[0])}


async def test_a_project_whose_minutes_take_too_long_is_not_the_first_one_again(
    store, project_id, make, hour, no_waiting, database, monkeypatch
):
    # Given a project with several minutes, each of which takes longer than the limit and than a whole step
    other = (await store.project_for_service("other")).id
    await write(store, *(make.record(project_id, timestamp=hour + n * MINUTE) for n in range(5)))
    await write(store, make.record(other, timestamp=hour))
    await store.roll_up()
    seconds = [0.0]
    monkeypatch.setattr(rollups, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    read = store._sources.requests

    async def read_slowly(project: ObjectId, window: Any, limit_seconds: float) -> Any:
        if project != ObjectId(project_id):
            return await read(project, window, limit_seconds)
        seconds[0] += rollups._STEP_SECONDS
        return await read(project, window, 0.000_001)

    monkeypatch.setattr(store._sources, "requests", read_slowly)
    # When a step has come no further than that project
    assert_failed(await store.roll_up(), project_id, hour + 4 * MINUTE)
    assert database.rollup_minutes.count_documents({}) == 0
    # Then the next one begins with the other project
    assert_failed(await store.roll_up(), project_id, hour + 3 * MINUTE)
    assert [minute["project_id"] for minute in database.rollup_minutes.find()] == [ObjectId(other)]


async def test_a_minute_that_fails_is_put_off_and_done_once_it_can_be(
    store, project_id, make, hour, database
):
    # Given a minute that cannot be counted, beside others of its hour and of an earlier one
    clock = FakeSeconds(store)
    minutes = [hour + n * MINUTE for n in (0, 1, 2, -30)]
    await write(store, *(make.record(project_id, timestamp=minute) for minute in minutes))
    break_minute(database, project_id, hour + MINUTE)
    await store.roll_up()
    clock.now += 11
    # When it has failed once
    steps = [await store.roll_up()]
    assert_failed(steps[0], project_id, hour + MINUTE)
    # Then this step and the next ones do all others, without another error
    steps += [await store.roll_up() for _ in range(2)]
    assert sum(step.minutes for step in steps) == 3
    assert [len(step.failures) for step in steps] == [1, 0, 0]
    assert (steps[-1].settling, steps[-1].put_off) == (1, 1)
    assert [mark["start"] for mark in database.rollup_marks.find()] == [hour + MINUTE]
    # And after five minutes it is tried again, and counted when nothing is wrong with it any more
    clock.now += 311
    assert_failed(await store.roll_up(), project_id, hour + MINUTE)
    database.performance_records.update_many({"duration": "broken"}, {"$set": {"duration": 0.25}})
    clock.now += 311
    await store.roll_up()
    assert database.rollup_marks.count_documents({"kind": "minute"}) == 0
    assert sum(bucket["count"] for bucket in database.rollup_hours.find()) == 4


async def test_several_minutes_that_fail_keep_no_other_one_of_their_hour_waiting(
    store, project_id, make, hour, no_waiting, database
):
    # Given an hour of six minutes, of which the newest and two others cannot be counted
    minutes = [hour + n * MINUTE for n in range(6)]
    await write(store, *(make.record(project_id, timestamp=minute) for minute in minutes))
    broken = [minutes[n] for n in (5, 3, 1)]
    for minute in broken:
        break_minute(database, project_id, minute)
    await store.roll_up()
    # When it is rolled up in one step
    step = await store.roll_up()
    # Then the others are written and in their hour, and only the marks of the broken ones stay
    assert [failure.what for failure in step.failures] == [f"the minute {m:%Y-%m-%dT%H:%M}" for m in broken]
    assert step.minutes == 3
    assert database.rollup_hours.find_one()["count"] == 3
    assert {mark["start"] for mark in database.rollup_marks.find({"kind": "minute"})} == {*broken}


async def test_call_trees_that_cannot_be_merged_keep_nothing_else_waiting(
    store, project_id, make, hour, no_waiting, database
):
    # Given two hours of call trees, of which the one that comes first cannot be read
    await write_profiles(store, make, project_id, [hour, hour + HOUR])
    while database.rollup_marks.count_documents({"kind": "minute"}):
        await store.roll_up()
    record = database.performance_records.find_one({"timestamp": hour})
    database.profiles.update_one({"_id": record["_id"]}, {"$unset": {"payload": True}})
    # When they are merged
    failures = [failure for _ in range(4) for failure in (await store.roll_up()).failures]
    # Then the other hour is, and the first one is put off
    assert [type(failure.error) for failure in failures] == [KeyError]
    assert [failure.what for failure in failures] == [f"the call trees of {hour:%Y-%m-%dT%H:%M}"]
    assert [tree["start"] for tree in database.rollup_trees.find()] == [hour + HOUR]
    assert [mark["start"] for mark in database.rollup_marks.find()] == [hour]


async def test_a_damaged_rollup_is_skipped_and_the_rest_answered(
    store, project_id, make, hour, no_waiting, database, caplog
):
    await write(
        store, make.record(project_id, timestamp=hour), make.record(project_id, timestamp=hour + HOUR)
    )
    await roll_up_everything(store)
    database.rollup_hours.update_one({"start": hour}, {"$set": {"total": b"damaged"}})
    assert (await store.statistics(whole(project_id, hour))).overall.count == 1
    assert "damaged" in caplog.text


async def test_the_loop_tells_of_each_minute_that_fails_and_goes_on(
    store, project_id, make, hour, no_waiting, database, monkeypatch, caplog
):
    # Given a minute that cannot be counted, and an earlier hour
    monkeypatch.setattr("profile_store.rollups.loop.IDLE_SECONDS", 0.01)
    monkeypatch.setattr("profile_store.rollups.loop._RETRY_SECONDS", 0.01)
    await write(store, *(make.record(project_id, timestamp=time) for time in (hour, hour - HOUR)))
    break_minute(database, project_id, hour)
    # When the loop has worked off what it can
    async with rolling_up(store):
        deadline = asyncio.get_running_loop().time() + 30
        while database.rollup_marks.count_documents({}) > 1:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
    # Then the log names the minute and its project, once
    told = [record.message for record in caplog.records if record.name == "profile_store.rollups.loop"]
    assert told[0].startswith(f"statistics of project {project_id} wait for the minute {hour:%Y-%m-%dT%H:%M}")
    assert told[1:] == ["statistics are being computed again"]


async def test_an_unknown_project_has_empty_statistics(store, hour):
    for reference in ("", "x", "\0", "zz" * 12, "0" * 24, "9" * 100_000):
        question = whole(reference, hour, endpoint="GET /a")
        assert (await store.statistics(question)).overall.count == 0
        assert {point.measures.count for point in (await store.series(question, HOUR)).points} == {0}
        assert await store.merged_call_tree(question) is None
        assert (await store.hot_functions(question)).by_endpoint == {}
        assert await store.versions(reference) == []
        assert (await store.roll_up(project_id=reference)).minutes == 0
        assert await store.request_roll_up(reference, hour, hour + HOUR) == 0


async def test_names_that_no_database_can_hold_are_names_of_nothing(
    store, project_id, make, hour, no_waiting
):
    await write_profiles(store, make, project_id, [hour])
    await roll_up_everything(store)
    for name in ("\ud800", "\0", "{$ne: 1}", "x" * 100_000):
        for names in ({"version": name}, {"environment": name}, {"method": name}, {"endpoint": name}):
            question = whole(project_id, hour, **{"endpoint": "GET /a"} | names)
            assert (await store.statistics(question)).overall.count == 0
            assert await store.merged_call_tree(question) is None
            assert (await store.hot_functions(question)).by_endpoint == {}


async def test_a_question_without_an_answer_is_refused(store, project_id, hour):
    backwards = RequestFilter(project_id=project_id, start=hour, end=hour - MINUTE)
    endless = RequestFilter(project_id=project_id, start=hour - timedelta(days=4_000), end=hour)
    for question in (backwards, endless):
        with pytest.raises(ValueError, match="window"):
            await store.statistics(question)
    with pytest.raises(ValueError, match="whole minutes"):
        await store.series(whole(project_id, hour), timedelta(seconds=30))
    with pytest.raises(ValueError, match="points"):
        await store.series(
            RequestFilter(project_id=project_id, start=hour - timedelta(days=7), end=hour), MINUTE
        )
    with pytest.raises(ValueError, match="endpoint"):
        await store.merged_call_tree(whole(project_id, hour))


async def test_the_loop_rolls_up_and_ends_with_its_block(
    store, project_id, make, hour, no_waiting, database, monkeypatch
):
    monkeypatch.setattr("profile_store.rollups.loop.IDLE_SECONDS", 0.01)
    await write_profiles(store, make, project_id, [hour])
    async with rolling_up(store):
        deadline = asyncio.get_running_loop().time() + 30
        while database.rollup_marks.count_documents({}) or not database.rollup_trees.count_documents({}):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "rollups"] == []


async def test_the_loop_finds_records_from_before_there_were_rollups(
    store, project_id, make, hour, no_waiting, database, monkeypatch
):
    # Given stored requests of which no rollup and no mark knows
    monkeypatch.setattr("profile_store.rollups.loop.IDLE_SECONDS", 0.01)
    await write_profiles(store, make, project_id, [hour, hour - HOUR])
    forget_rollups(database)
    # When a server's loop begins
    async with rolling_up(store):
        deadline = asyncio.get_running_loop().time() + 30
        while database.rollup_trees.count_documents({}) < 2:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
    # Then they are computed without anybody asking
    assert [stored["count"] for stored in database.rollup_hours.find()] == [1, 1]


async def test_the_loop_outlives_trouble_and_tells_once(
    store, project_id, make, hour, no_waiting, database, monkeypatch, caplog
):
    # Given a database that is away for a while, and then a mistake of ours
    monkeypatch.setattr("profile_store.rollups.loop.IDLE_SECONDS", 0.01)
    monkeypatch.setattr("profile_store.rollups.loop._RETRY_SECONDS", 0.01)
    await write(store, make.record(project_id, timestamp=hour))
    troubles: list[Exception] = [StoreUnavailable("away"), StoreUnavailable("away"), RuntimeError("mistake")]
    work = store.roll_up

    async def troubled(**options: Any) -> Any:
        if troubles:
            raise troubles.pop(0)
        return await work(**options)

    monkeypatch.setattr(store, "roll_up", troubled)
    # When the loop runs
    async with rolling_up(store):
        deadline = asyncio.get_running_loop().time() + 30
        while database.rollup_marks.count_documents({}):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
    # Then the work is done, and the log says when it stopped and when it went on
    told = [record.message for record in caplog.records if record.name == "profile_store.rollups.loop"]
    assert told == ["statistics wait: away", "statistics are being computed again"]


async def test_project_statistics_of_many_requests_are_within_a_percent(
    store, project_id, make, no_waiting, monkeypatch
):
    monkeypatch.setattr("profile_store.mongodb.statistics.EXACT_UP_TO", 10)
    records = [make.record(project_id, duration=0.001 * 1.07**n) for n in range(100)]
    await write(store, *records)
    await roll_up_everything(store)
    statistics = await store.project_statistics(project_id)
    assert statistics.total_requests == 100
    assert statistics.p95_response_time == pytest.approx(exact_quantile_ms(records, 0.95), rel=0.0101)


@dataclass
class Examined:
    """What the database looked at."""

    keys: int = 0
    documents: int = 0


@contextmanager
def examined(database) -> Iterator[Examined]:
    """Counts, as the server's own profiler has it, what the questions of a block look at."""
    found = Examined()
    database["system.profile"].drop()
    database.command("profile", 2)
    try:
        yield found
    finally:
        database.command("profile", 0)
    for command in database["system.profile"].find(
        {"ns": {"$regex": "rollup_|performance_records|profiles$"}}
    ):
        found.keys += command.get("keysExamined", 0)
        found.documents += command.get("docsExamined", 0)


async def test_a_question_costs_the_same_for_ten_requests_and_for_ten_thousand(
    store, project_id, make, hour, no_waiting, database
):
    question = whole(project_id, hour)
    endpoint = replace(question, endpoint="GET /0")
    minutes = RequestFilter(project_id=project_id, start=hour, end=hour + 30 * MINUTE)
    questions = {
        "statistics": lambda: store.statistics(question),
        "by endpoint": lambda: store.statistics(question, group_by="endpoint"),
        "of an endpoint by version": lambda: store.statistics(endpoint, group_by="version"),
        "series of hours": lambda: store.series(question, HOUR),
        "series of minutes": lambda: store.series(minutes, MINUTE),
        "call tree": lambda: store.merged_call_tree(endpoint),
        "hot functions": lambda: store.hot_functions(question),
        "versions": lambda: store.versions(project_id),
    }

    async def costs_of(count: int) -> dict[str, Examined]:
        """What each question costs after so many more requests of the same ten minutes and five endpoints."""
        for first in range(0, count, 1_000):
            records = [
                make.record(project_id, timestamp=hour + n % 10 * MINUTE, endpoint=f"GET /{n % 5}")
                for n in range(first, min(first + 1_000, count))
            ]
            await write(store, make.profiled(records[0]), *records[1:])
        await roll_up_everything(store)
        costs = {}
        for name, ask in questions.items():
            with examined(database) as costs[name]:
                await ask()
        return costs

    # Given ten requests that are rolled up, and what questions cost
    few = await costs_of(10)
    assert min(min(cost.keys, cost.documents) for cost in few.values()) > 0
    # When there are a thousand times as many
    many = await costs_of(9_990)
    assert (await store.statistics(question)).overall.count == 10_000
    # Then the database looks at as many keys and documents as before
    assert many == few


async def test_every_query_uses_its_index_and_names_the_project(
    store, project_id, make, hour, no_waiting, database, mongodb_url
):
    # Given what the server says of each command
    records = many_records(make, project_id, hour, 60)
    with MongoClient(mongodb_url) as client:
        client[database.name].command({"profile": 2})
        try:
            # When everything is done: marking, rolling up, reading with and without marks, correcting
            await write(
                store,
                *records,
                *(make.profiled(record) for record in many_records(make, project_id, hour, 5)),
            )
            await store.request_missing_roll_ups()
            await roll_up_everything(store)
            await write(store, records[0], make.profiled(many_records(make, project_id, hour, 1)[0]))
            question = whole(project_id, hour, endpoint="GET /a", version="1.0")
            await store.statistics(question, group_by="version")
            await store.series(question, HOUR)
            await store.merged_call_tree(question)
            await store.hot_functions(question)
            await store.versions(project_id)
            await store.project_statistics(project_id)
            await store.endpoints(project_id)
            await roll_up_everything(store)
        finally:
            client[database.name].command({"profile": 0})
    commands = list(
        database["system.profile"].find({"ns": {"$regex": "rollup_|performance_records|profiles$"}})
    )
    plans = {
        (c["ns"].split(".")[1], c["op"], c.get("planSummary", "")) for c in commands if c["op"] != "insert"
    }
    # Then none of them searches a whole collection
    assert [plan for plan in plans if "COLLSCAN" in plan[2]] == []
    assert {name for name, _, _ in plans} == {*COLLECTIONS, "performance_records", "profiles"}
    # And each names the project, with which every shard key begins, but for: which projects have marks?
    asked = [
        (c, collection, filters)
        for c in commands
        if (filters := filters_of(c["command"])) is not None
        for collection in [c["ns"].split(".")[1]]
    ]
    assert len([c for c, collection, _ in asked if collection in COLLECTIONS]) > 50
    assert {"performance_records", "profiles"} <= {collection for _, collection, _ in asked}
    everywhere = [(c, collection) for c, collection, filters in asked if not names_its_project(filters)]
    assert everywhere
    assert [
        (c["command"], collection)
        for c, collection in everywhere
        if (collection, c["command"].get("distinct")) != ("rollup_marks", "rollup_marks")
    ] == []
    # And who changes one document names all that its collection is sharded by
    changes = [
        (collection, filters)
        for c, collection, filters in asked
        if c["op"] in ("update", "remove") and not c["command"].get("multi") and SHARD_KEYS[collection]
    ]
    assert {collection for collection, _ in changes} >= {*COLLECTIONS} - {"rollup_versions"}
    assert [
        (collection, filters)
        for collection, filters in changes
        if SHARD_KEYS[collection].keys() - filters.keys()
    ] == []
    # And none looks at much more than it needs: the counting, at each record of its window once
    wasteful = []
    for c, collection, filters in asked:
        needed = 2 * c.get("nreturned", 0) + 5
        if "pipeline" in c["command"]:
            needed = database[collection].count_documents(filters) + 1
        if max(c.get("docsExamined", 0), c.get("keysExamined", 0)) > needed:
            wasteful.append((collection, c["command"], c["docsExamined"], c["keysExamined"]))
    assert wasteful == []


async def test_a_step_asks_only_once_without_naming_a_project(
    store, project_id, make, hour, no_waiting, database, mongodb_url
):
    # Given several projects with marks
    others = [(await store.project_for_service(name)).id for name in ("second", "third")]
    for project in (project_id, *others):
        await write(store, make.record(project, timestamp=hour))
    # When the roller makes a step
    with MongoClient(mongodb_url) as client:
        client[database.name].command({"profile": 2})
        try:
            await store.roll_up()
        finally:
            client[database.name].command({"profile": 0})
    # Then each of its questions for marks names one of them, but for one: who has any?
    commands = [c["command"] for c in database["system.profile"].find({"ns": {"$regex": "rollup_marks$"}})]
    asked = [filters for command in commands if (filters := filters_of(command)) is not None]
    named = [filters for filters in asked if names_its_project(filters)]
    assert {filters["project_id"] for filters in named} == {
        ObjectId(project) for project in (project_id, *others)
    }
    assert [filters for filters in asked if filters not in named] == [{}]


def filters_of(command: dict[str, Any]) -> dict[str, Any] | None:
    """What the documents of a command must fulfil; None for one that names none or goes on with another."""
    if "distinct" in command:
        return command.get("query", {})
    if "pipeline" in command:
        return command["pipeline"][0]["$match"]
    return command.get("filter", command.get("q"))


def names_its_project(filters: dict[str, Any]) -> bool:
    """By equality, or as one of several: a range of projects would ask every shard."""
    named = filters.get("project_id")
    return named is not None and (not isinstance(named, dict) or set(named) == {"$in"})
