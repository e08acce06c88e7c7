"""Requests that wait for the database are written together, and none of them notices another one."""

import asyncio

import pytest

from collector_receiver import group_commit
from collector_receiver.group_commit import GATHERING_TURNS, GroupCommit
from collector_receiver.translation import Destination, Translator
from profile_store.contracts import StoreUnavailable, UnknownStoreError
from profile_store.model import RecordQuery

pytestmark = pytest.mark.anyio


class Gate:
    """Stands before the real store: keeps writes waiting, or lets those that hold one item fail."""

    def __init__(self, store):
        self.store = store
        self.batches = []
        self.open = asyncio.Event()
        self.failures = {}

    async def write(self, batch):
        self.batches.append(batch)
        await self.open.wait()
        for item in batch.records:
            if item.record.span_id in self.failures:
                raise self.failures[item.record.span_id]
        return await self.store.write(batch)


@pytest.fixture
async def gate(store):
    return Gate(store)


@pytest.fixture
async def commits(gate):
    made = GroupCommit(gate)
    yield made
    await made.close()


@pytest.fixture
async def project_id(store):
    return (await store.project_for_service("shop")).id


@pytest.fixture
def batch_of(make, project_id):
    """Function (spans, project_id) -> a batch of one request with these spans."""

    def batch(*spans, project_id=project_id):
        return Translator().translate(make.request(*spans), [Destination(project_id=project_id)])

    return batch


async def waiting(commits, gate, batches, *, writes=1):
    """Tasks that write `batches`, when the first has reached the gate alone, so many writes have in all, and
    the others wait."""
    first = asyncio.create_task(commits.write(batches[0]))
    await reached(gate, 1)
    tasks = [first, *(asyncio.create_task(commits.write(batch)) for batch in batches[1:])]
    await asyncio.sleep(0)  # they begin to wait
    await reached(gate, writes)
    return tasks


async def reached(gate, writes):
    """Return when so many writes have reached the gate."""
    async with asyncio.timeout(20):
        while len(gate.batches) < writes:
            await asyncio.sleep(0.001)


async def test_a_batch_that_comes_alone_is_written_alone(commits, gate, batch_of, make):
    gate.open.set()
    batch = batch_of(make.span())

    result = await commits.write(batch)

    assert (result.new_records, gate.batches) == (1, [batch])


async def test_batches_that_wait_are_written_together(commits, gate, batch_of, make, store, project_id):
    # Given ten requests, of which the first one keeps the database busy
    tasks = await waiting(commits, gate, [batch_of(make.span(), make.span(kind=3)) for _ in range(10)])
    assert not any(task.done() for task in tasks)

    # When it answers
    gate.open.set()
    results = await asyncio.gather(*tasks)

    # Then the others went together, everything is stored, and it is counted once
    assert [len(batch.records) for batch in gate.batches] == [1, 9]
    assert (await store.records(RecordQuery(project_id=project_id))).total == 10
    assert sum(result.new_records for result in results) == 10


async def test_what_is_there_already_comes_along_with_the_first(commits, gate, batch_of, make):
    # Given three requests, of which two are translated some turns of the loop after the first
    async def export(turns):
        batch = batch_of(make.span())
        for _ in range(turns):
            await asyncio.sleep(0)
        return await commits.write(batch)

    # When nothing else is written
    gate.open.set()
    await asyncio.gather(*(export(turns) for turns in (0, 1, GATHERING_TURNS)))

    # Then there is one write
    assert [len(batch.records) for batch in gate.batches] == [3]


async def test_who_waits_for_others_to_come_along_is_told_of_the_end(commits, gate, batch_of, make):
    # Given a request whose write has not begun
    task = asyncio.create_task(commits.write(batch_of(make.span())))
    await asyncio.sleep(0)

    # When everything ends
    await commits.close()

    # Then it is given up, and never written
    await asyncio.wait({task}, timeout=20)
    assert task.cancelled()
    assert gate.batches == []


async def test_a_full_group_does_not_wait_and_writes_are_bounded(commits, gate, batch_of, make, monkeypatch):
    # Given groups of at most 3 spans, two writes at a time, and a database that is busy with the first
    monkeypatch.setattr(group_commit, "MAX_GROUP_SPANS", 3)
    monkeypatch.setattr(group_commit, "MAX_WRITES", 2)
    batches = [batch_of(*(make.span() for _ in range(size))) for size in (1, 2, 1, 5, 3, 1)]

    # When more waits than a group holds
    tasks = await waiting(commits, gate, batches, writes=2)

    # Then one more write has begun, and the rest follows in groups of that size or of one large request
    assert [len(batch.records) for batch in gate.batches] == [1, 3]
    gate.open.set()
    await asyncio.gather(*tasks)
    assert [len(batch.records) for batch in gate.batches] == [1, 3, 5, 3, 1]


async def test_a_refusal_reaches_only_the_request_that_it_is_about(commits, gate, batch_of, make, store):
    # Given a record of another project, whose id a request of ours repeats
    other = (await store.project_for_service("other")).id
    taken = make.span()
    await store.write(batch_of(taken, project_id=other))
    spans = [make.span() for _ in range(8)]
    spans[5] = taken

    # When that request and good ones are written together
    tasks = await waiting(commits, gate, [batch_of(span) for span in spans])
    gate.open.set()
    results = await asyncio.gather(*tasks)

    # Then the good ones do not hear of it
    assert [len(result.refusals) for result in results] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert results[5].refusals[0].span_ids == (taken.span_id,)
    assert sum(result.new_records for result in results) == 7


async def test_what_was_new_before_a_group_is_halved_twice_is_told_once(commits, gate, batch_of, make, store):
    # Given a group of four, written behind another one, that begins with two refused requests
    other = (await store.project_for_service("other")).id
    taken = [make.span(), make.span()]
    await store.write(batch_of(*taken, project_id=other))
    good = [make.span(events=[make.profile_event()]) for _ in range(3)]

    # When it is halved until each refusal has its request
    tasks = await waiting(commits, gate, [batch_of(span) for span in (good[0], *taken, *good[1:])])
    gate.open.set()
    results = await asyncio.gather(*tasks)

    # Then what the first attempt stored is not forgotten on the way
    assert [len(result.refusals) for result in results] == [0, 1, 1, 0, 0]
    assert sum(result.new_records for result in results) == 3
    assert sum(result.new_profiles for result in results) == 3


@pytest.mark.parametrize("failure", [UnknownStoreError("write error 4711"), ZeroDivisionError()])
async def test_an_error_about_one_request_fails_that_request_only(
    commits, gate, batch_of, make, failure, store, project_id
):
    spans = [make.span() for _ in range(9)]
    gate.failures[spans[4].span_id] = failure
    tasks = await waiting(commits, gate, [batch_of(span) for span in spans])

    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [result for result in results if isinstance(result, Exception)] == [failure]
    assert results[4] is failure
    assert (await store.records(RecordQuery(project_id=project_id))).total == 8


async def test_when_the_database_does_not_answer_nobody_waits_for_another_time_out(
    commits, gate, batch_of, make
):
    batches = [batch_of(make.span()) for _ in range(9)]
    gate.failures = {batch.records[0].record.span_id: StoreUnavailable("gone") for batch in batches}
    tasks = await waiting(commits, gate, batches)

    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results] == [StoreUnavailable] * 9
    assert len(gate.batches) == 1


async def test_after_an_outage_writes_go_on(commits, gate, batch_of, make):
    gate.open.set()
    batch = batch_of(make.span())
    gate.failures[batch.records[0].record.span_id] = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await commits.write(batch)

    gate.failures.clear()

    assert (await commits.write(batch)).new_records == 1


async def test_a_request_that_is_cancelled_takes_no_other_one_with_it(commits, gate, batch_of, make):
    tasks = await waiting(commits, gate, [batch_of(make.span()) for _ in range(6)])

    for task in (tasks[0], tasks[4]):
        task.cancel()
    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(result, asyncio.CancelledError) for result in results] == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]


async def test_closing_leaves_nobody_waiting(gate, batch_of, make):
    commits = GroupCommit(gate)
    tasks = await waiting(commits, gate, [batch_of(make.span()) for _ in range(6)])

    await commits.close()

    async with asyncio.timeout(20):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
