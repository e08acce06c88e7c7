"""Senders find their project by key or by service name, on a real store."""

import asyncio
import collections
import secrets
import time

import pytest

from collector_receiver.projects import (
    MAX_KEY_CHARACTERS,
    MAX_NEW_PROJECTS_PER_REQUEST,
    MAX_REFUSALS_REMEMBERED_PER_REQUEST,
    MAX_UNKNOWN_PER_REQUEST,
    Projects,
)
from collector_receiver.refusals import TryAgain
from collector_receiver.shared_lookups import MAX_WAITING
from collector_receiver.translation import Destination
from profile_store.contracts import StoreUnavailable

pytestmark = pytest.mark.anyio

MISSING = Destination(refusal="missing_project_key")
UNKNOWN = Destination(refusal="unknown_project_key")


async def test_in_open_mode_a_service_becomes_a_project(store, make):
    projects = Projects(store, "open")

    found = await projects.destinations([make.resource_spans(resource={"service.name": "shop"})], None)

    assert found == [Destination(project_id=(await store.project_for_service("shop")).id)]


@pytest.mark.parametrize(
    "resource", [{}, {"service.name": ""}, {"service.name": 5}, {"service.name": "\n\x00"}]
)
async def test_a_service_without_a_name_has_a_project_too(store, make, resource):
    found = await Projects(store, "open").destinations([make.resource_spans(resource=resource)], None)

    assert found == [Destination(project_id=(await store.project_for_service("unknown_service")).id)]


@pytest.mark.parametrize("mode", ["open", "key"])
async def test_the_key_of_the_request_decides_for_all_resources(store, make, mode):
    project = await store.create_project("orders")
    batches = [make.resource_spans(resource={"service.name": name}) for name in ("a", "b")]

    found = await Projects(store, mode).destinations(batches, project.project_key)

    assert found == [Destination(project_id=project.id)] * 2


@pytest.mark.parametrize("mode", ["open", "key"])
async def test_the_key_of_a_resource_decides_for_it(store, make, mode):
    """As a shared Collector sends it."""
    project = await store.create_project("orders")
    batches = [
        make.resource_spans(resource={"project.key": project.project_key, "service.name": "other"}),
        make.resource_spans(resource={"project.key": "wrong"}),
    ]

    assert await Projects(store, mode).destinations(batches, None) == [
        Destination(project_id=project.id),
        UNKNOWN,
    ]


async def test_in_key_mode_a_service_name_is_not_enough(store, make):
    found = await Projects(store, "key").destinations([make.resource_spans()], None)

    assert found == [MISSING]


@pytest.mark.parametrize("key", ["wrong", "\x00", "é" * 5_000, '{"$ne": 1}'])
async def test_a_wrong_key_is_refused_in_either_mode(store, make, key):
    for mode in ("open", "key"):
        assert await Projects(store, mode).destinations([make.resource_spans()], key) == [UNKNOWN]


async def test_what_is_too_long_for_a_key_is_refused_without_a_query(store):
    counting = Counting(store)

    for length in (MAX_KEY_CHARACTERS, MAX_KEY_CHARACTERS + 1):
        assert await Projects(counting, "key").of_key("k" * length) == UNKNOWN

    assert counting.asked == [1]


async def test_an_empty_key_is_a_missing_key(store, make):
    assert await Projects(store, "open").destinations([make.resource_spans()], "") == [MISSING]


async def test_a_key_made_later_works_within_seconds(store, make):
    # Given a project whose key a sender had wrong
    now = [0.0]
    projects = Projects(store, "key", clock=lambda: now[0])
    assert await projects.of_key("wrong") == UNKNOWN
    project = await store.create_project("orders")

    # When the right one is used, and the wrong one later again
    assert await projects.of_key(project.project_key) == Destination(project_id=project.id)
    now[0] = 5.1
    assert await projects.of_key("wrong") == UNKNOWN


async def test_what_was_looked_up_is_remembered_for_five_seconds(store):
    # Given a project that was found once, and then lost its key
    now = [0.0]
    projects = Projects(store, "key", clock=lambda: now[0])
    project = await store.create_project("orders")
    known = await projects.of_key(project.project_key)
    await store.revoke_key(project.id, project.keys[0].prefix)

    # Then it is known for a while, and no longer
    now[0] = 4.9
    assert await projects.of_key(project.project_key) == known
    now[0] = 5.0
    assert await projects.of_key(project.project_key) == UNKNOWN


async def test_a_late_answer_of_the_database_is_remembered_from_the_question_on(store):
    # Given a database that takes four seconds to answer
    now = [0.0]
    project = await store.create_project("orders")

    class Slow:
        async def projects_for_keys(self, keys):
            found = await store.projects_for_keys(keys)
            now[0] += 4
            return found

    projects = Projects(Slow(), "key", clock=lambda: now[0])
    await projects.of_key(project.project_key)
    await store.revoke_key(project.id, project.keys[0].prefix)

    # Then what it knew counts for one second more
    now[0] = 5.0
    assert await projects.of_key(project.project_key) == UNKNOWN


async def test_what_is_remembered_is_bounded_and_wrong_keys_displace_no_right_one(store, monkeypatch):
    # Given a sender with a right key
    monkeypatch.setattr("collector_receiver.projects.MAX_REMEMBERED", 3)
    counting = Counting(store)
    projects = Projects(counting, "key", clock=lambda: 0.0)
    project = await store.create_project("orders")
    await projects.of_key(project.project_key)

    # When others try many wrong ones
    for _ in range(10):
        await projects.of_key(secrets.token_hex(8))

    # Then few of those are remembered, and the right one is not asked for again
    assert len(projects._refused) == 3
    asked = len(counting.asked)
    assert await projects.of_key(project.project_key) == Destination(project_id=project.id)
    assert len(counting.asked) == asked


class Counting:
    """The store, noting with how many keys or services it was asked each time."""

    def __init__(self, store):
        self._store = store
        self.asked = []

    async def projects_for_keys(self, keys):
        self.asked.append(len(keys))
        return await self._store.projects_for_keys(keys)

    async def projects_for_services(self, names):
        self.asked.append(len(names))
        return await self._store.projects_for_services(names)

    async def project_for_service(self, name, **options):
        self.asked.append(1)
        return await self._store.project_for_service(name, **options)


async def test_a_flood_of_wrong_keys_is_answered_with_few_queries(store):
    # Given a sender with a right key, and many with wrong ones
    counting = Counting(store)
    projects = Projects(counting, "key")
    project = await store.create_project("orders")
    keys = [secrets.token_hex(8) for _ in range(3_000)]

    # When all of them come at the same time
    *wrong, right = await asyncio.gather(*map(projects.of_key, [*keys, project.project_key]))

    # Then everybody has the right answer, for less queries than a second may have
    assert set(wrong) == {UNKNOWN}
    assert right == Destination(project_id=project.id)
    assert sum(counting.asked) == 3_001
    assert len(counting.asked) <= 5


async def test_queries_for_keys_are_spread_over_time(store, monkeypatch):
    # Given two queries at once and then one every 50 ms
    monkeypatch.setattr("collector_receiver.shared_lookups.BURST_QUERIES", 2)
    counting = Counting(store)
    projects = Projects(counting, "key")
    loop = asyncio.get_running_loop()
    start = loop.time()

    # When six wrong keys come one after another
    for _ in range(6):
        await projects.of_key(secrets.token_hex(8))

    # Then the last four had to wait for their turn
    assert len(counting.asked) == 6
    assert loop.time() - start >= 0.19


async def test_a_database_that_does_not_answer_fails_who_asks_and_nobody_later(store):
    # Given a database that fails once
    project = await store.create_project("orders")

    class FailingOnce(Counting):
        async def projects_for_keys(self, keys):
            found = await super().projects_for_keys(keys)
            if len(self.asked) == 1:
                raise StoreUnavailable("gone")
            return found

    projects = Projects(FailingOnce(store), "key")
    results = await asyncio.gather(
        projects.of_key(project.project_key), projects.of_key("wrong"), return_exceptions=True
    )

    # Then those who asked are told to try again, which helps
    assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
    assert await projects.of_key(project.project_key) == Destination(project_id=project.id)
    assert await projects.of_key("wrong") == UNKNOWN


async def test_who_goes_away_takes_the_answer_from_nobody(store):
    projects = Projects(store, "key")
    project = await store.create_project("orders")
    first = asyncio.create_task(projects.of_key(project.project_key))
    second = asyncio.create_task(projects.of_key(project.project_key))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == Destination(project_id=project.id)


async def test_with_as_many_projects_as_allowed_new_services_are_refused_by_name(store, make):
    # Given room for two projects
    projects = Projects(store, "open", max_projects=2)
    batches = [make.resource_spans(resource={"service.name": name}) for name in ("a", "b", "c")]

    # When three services send, and later those that were first
    found = await projects.destinations(batches, None)
    again = await Projects(store, "open", max_projects=2).destinations(batches[:2], None)

    # Then the third is refused, and nothing was made for it
    assert [destination.refusal for destination in found] == ["", "", "project_limit_reached"]
    assert again == found[:2]
    assert (await store.projects()).total == 2


@pytest.fixture
def services(make):
    """Function (names) -> the parts of a request that these services sent."""
    return lambda names: [make.resource_spans(resource={"service.name": name}) for name in names]


@pytest.fixture
def keys_of(make):
    """Function (keys) -> the parts of a request that a Collector sends for senders with these keys."""
    return lambda keys: [make.resource_spans(resource={"project.key": key}) for key in keys]


def refusals(destinations):
    return [destination.refusal for destination in destinations]


async def test_one_request_makes_few_projects_and_those_after_it_the_others(store, services, monkeypatch):
    # Given a request with five new services, which may make two projects
    assert MAX_NEW_PROJECTS_PER_REQUEST == 256
    monkeypatch.setattr("collector_receiver.projects.MAX_NEW_PROJECTS_PER_REQUEST", 2)
    request = services(["a", "b", "c", "d", "a", "e"])

    # When it is sent until it is taken
    totals = []
    projects = Projects(store, "open")
    for _ in range(2):
        with pytest.raises(TryAgain) as refused:
            await projects.destinations(request, None)
        assert (refused.value.reason, refused.value.retry_after_seconds) == ("too_many_new_projects", 1)
        totals.append((await store.projects()).total)
    found = await projects.destinations(request, None)

    # Then each time has made some, and in the end nobody is refused
    assert totals == [2, 4]
    assert refusals(found) == [""] * 6
    assert len({destination.project_id for destination in found}) == 5


async def test_who_has_a_project_is_found_however_many_others_a_request_names(store, services, monkeypatch):
    # Given a request of many services, more than are looked up at once, and all but one have a project
    monkeypatch.setattr("collector_receiver.projects.MAX_NEW_PROJECTS_PER_REQUEST", 1)
    monkeypatch.setattr("collector_receiver.projects.MAX_UNKNOWN_PER_REQUEST", 2)
    monkeypatch.setattr("collector_receiver.projects.MAX_PER_QUERY", 3)
    known = [(await store.project_for_service(f"s{number}")).id for number in range(10)]

    found = await Projects(store, "open").destinations(
        services(["new", *(f"s{number}" for number in range(10))]), None
    )

    assert [destination.project_id for destination in found[1:]] == known
    assert refusals(found[:1]) == [""]


async def test_a_right_key_is_found_however_many_others_a_request_names(store, keys_of, monkeypatch):
    monkeypatch.setattr("collector_receiver.projects.MAX_UNKNOWN_PER_REQUEST", 2)
    monkeypatch.setattr("collector_receiver.projects.MAX_PER_QUERY", 3)
    known = [await store.create_project(f"p{number}") for number in range(10)]
    keys = ["wrong", *(project.project_key for project in known)]

    found = await Projects(store, "key").destinations(keys_of(keys), None)

    assert found == [UNKNOWN, *(Destination(project_id=project.id) for project in known)]


@pytest.mark.parametrize("mode", ["key", "open"])
async def test_who_was_found_before_is_found_behind_too_many_unknown_ones(
    store, services, keys_of, monkeypatch, mode
):
    # Given no more room for projects, and a sender that was found a moment ago
    monkeypatch.setattr("collector_receiver.projects.MAX_UNKNOWN_PER_REQUEST", 2)
    monkeypatch.setattr("collector_receiver.projects.MAX_PER_QUERY", 2)
    projects = Projects(store, mode, max_projects=1)
    project = await store.create_project("known")
    parts, known = (keys_of, project.project_key) if mode == "key" else (services, "known")
    await projects.destinations(parts([known]), None)

    # When a request names it behind more unknown ones than the database is asked for
    found = await projects.destinations(parts(["a", "b", "c", known, "d"]), None)

    # Then it is found, and only those that the database would have to be asked for are not
    unknown = UNKNOWN.refusal if mode == "key" else "project_limit_reached"
    assert refusals(found) == [unknown, unknown, "too_many_projects", "", "too_many_projects"]
    assert found[3].project_id == project.id


async def test_without_room_for_projects_a_request_is_not_sent_for_ever(store, services, monkeypatch):
    # Given room for three projects, and a request with one that exists and more new ones than there is room
    monkeypatch.setattr("collector_receiver.projects.MAX_NEW_PROJECTS_PER_REQUEST", 1)
    old = await store.project_for_service("old")
    projects = Projects(store, "open", max_projects=3)
    request = services(["a", "b", "c", "d", "e", "old"])

    # When it is sent again and again
    for _ in range(2):
        with pytest.raises(TryAgain):
            await projects.destinations(request, None)
    found = await projects.destinations(request, None)

    # Then it is taken as soon as there is no more room, and only those are refused that have no project
    assert refusals(found) == ["", "", *["project_limit_reached"] * 3, ""]
    assert found[-1] == Destination(project_id=old.id)


async def test_what_others_have_made_meanwhile_needs_no_room(store, services):
    # Given a store where another receiver takes the last place for the service that is just being looked up
    class Raced:
        async def projects_for_services(self, names):
            found = await store.projects_for_services(names)
            await store.project_for_service("b")
            return found

        def __getattr__(self, name):
            return getattr(store, name)

    found = await Projects(Raced(), "open", max_projects=1).destinations(services(["a", "b"]), None)

    assert refusals(found) == ["project_limit_reached", ""]


@pytest.mark.parametrize("mode", ["key", "open"])
async def test_a_hundred_thousand_names_that_nobody_has_cost_few_queries_and_little_memory(store, make, mode):
    # Given a stranger's request, no room for projects, and a mistake that another sender repeats
    counting = Counting(store)
    projects = Projects(counting, mode, max_projects=1)
    known = await store.create_project("orders")
    await projects.of_key("mistake")
    names = [secrets.token_hex(8) for _ in range(100_000)]
    attribute = "project.key" if mode == "key" else "service.name"
    request = [make.resource_spans(resource={attribute: name}) for name in names]
    begun = time.thread_time()
    await Projects(store, mode, max_projects=1).destinations(request[:10_000], None)
    of_a_tenth = time.thread_time() - begun
    asked = len(counting.asked)
    begun = time.thread_time()

    # When it comes
    answer = asyncio.create_task(projects.destinations(request, None))
    async with asyncio.timeout(60):
        right = await projects.of_key(known.project_key)
        found = await answer

    # Then it costs more than a tenth of it, but not with the square: that would be 100 times as much
    assert time.thread_time() - begun < 20 * of_a_tenth
    # And it has its answer for a few queries, and what is remembered is hardly more than before
    assert collections.Counter(refusals(found)) == {
        "unknown_project_key" if mode == "key" else "project_limit_reached": MAX_UNKNOWN_PER_REQUEST,
        "too_many_projects": 100_000 - MAX_UNKNOWN_PER_REQUEST,
    }
    assert right == Destination(project_id=known.id)
    assert len(counting.asked) - asked <= 5
    assert len(projects._refused) == 1 + MAX_REFUSALS_REMEMBERED_PER_REQUEST
    assert await projects.of_key("mistake") == UNKNOWN


class Stuck(Counting):
    """The store, which does not answer about the keys of others until it may go on."""

    def __init__(self, store, key):
        super().__init__(store)
        self._key = key
        self.go_on = asyncio.Event()

    async def projects_for_keys(self, keys):
        if list(keys) != [self._key]:
            await self.go_on.wait()
        return await super().projects_for_keys(keys)


@pytest.fixture
async def flooded(store, keys_of):
    """Function (requests full of wrong keys) -> (projects, their stuck store, a right key, the tasks)."""
    tasks, go_on = [], []

    async def start(requests):
        key = (await store.create_project("orders")).project_key
        stuck = Stuck(store, key)
        go_on.append(stuck.go_on)
        projects = Projects(stuck, "key")
        tasks.extend(asyncio.create_task(projects.destinations(request, None)) for request in requests)
        await asyncio.sleep(0)  # they ask at once
        return projects, stuck, key, tasks

    yield start
    for event in go_on:
        event.set()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("same", [False, True], ids=["different keys", "the same keys"])
async def test_while_too_many_keys_wait_others_are_told_to_come_again(flooded, keys_of, same):
    # Given a database that does not answer, and more wrong keys than may wait
    requests = [
        keys_of(f"{0 if same else number} {key}" for key in range(1_000))
        for number in range(MAX_WAITING // 1_000 + 5)
    ]
    projects, stuck, key, tasks = await flooded(requests)

    # Then those that are one too many have their answer at once, and so has who comes later
    waiting, refused = tasks[:-5], tasks[-5:]
    assert [task.done() for task in tasks] == [False] * len(waiting) + [True] * 5
    overloaded = [task.exception() for task in refused]
    with pytest.raises(TryAgain) as later:
        await projects.destinations(keys_of([key]), None)
    for error in [*overloaded, later.value]:
        assert (type(error), error.reason, error.retry_after_seconds) == (TryAgain, "overloaded", 1)

    # And when the database answers, the others are answered, and there is room again
    stuck.go_on.set()
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*waiting)
        assert refusals(await projects.destinations(keys_of([key]), None)) == [""]
    assert {refusal for answer in answers for refusal in refusals(answer)} == {UNKNOWN.refusal}


async def test_the_key_of_a_request_does_not_wait_behind_keys_inside_of_requests(flooded, keys_of, store):
    # Given as many wrong keys in resources as may wait
    requests = [keys_of(f"{number} {key}" for key in range(1_000)) for number in range(MAX_WAITING // 1_000)]
    projects, _, key, tasks = await flooded(requests)

    # When a request has its key in its header
    async with asyncio.timeout(20):
        found = await projects.of_key(key)

    # Then it is answered while they wait
    assert found.project_id == (await store.projects()).items[0].id
    assert not any(task.done() for task in tasks)
