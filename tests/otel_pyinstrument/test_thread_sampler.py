"""Our sampler of a thread beside profilers of the user's: they get what they would get without us."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from pyinstrument import Profiler, stack_sampler
from pyinstrument.stack_sampler import AsyncState, StackSampler

from otel_pyinstrument import private_names
from otel_pyinstrument.thread_sampler import ThreadSampler

INTERVAL_SECONDS = 1e-4
ROUNDS = 20_000


def work() -> None:
    for _ in range(ROUNDS):
        len(())


class Target:
    """A subscriber that keeps what it was told."""

    def __init__(self) -> None:
        self.samples = 0
        self.states: set[str] = set()

    def take(self, _stack: list[str], _elapsed: float, state: AsyncState | None) -> None:
        self.samples += 1
        self.states.add(state.state if state else "")


@pytest.fixture
def sampler() -> Iterator[StackSampler]:
    """Of this thread, which has none yet; afterwards it has none either."""
    stack_sampler.thread_locals.__dict__.pop("stack_sampler", None)
    yield private_names.stack_sampler()
    sys.setprofile(None)
    stack_sampler.thread_locals.__dict__.pop("stack_sampler", None)


def events_of(sampler: StackSampler, in_between: Callable[[], object]) -> list[str]:
    """What its hook reports while a subscriber of ours, and what happens `in_between`, are there."""
    events: list[str] = []
    report = sampler._sample

    def listen(frame, event, arg):
        events.append(event)
        report(frame, event, arg)

    sampler.__dict__["_sample"] = listen
    target = Target()
    private_names.subscribe(sampler, target.take, interval_seconds=INTERVAL_SECONDS)
    in_between()
    work()
    private_names.unsubscribe(sampler, target.take)
    assert target.samples
    return events


def test_the_hook_asks_for_no_context_variable_that_nobody_needs(sampler: StackSampler) -> None:
    def change_the_variable() -> None:
        stack_sampler.active_profiler_context_var.set(object())

    events = contextvars.Context().run(events_of, sampler, change_the_variable)

    assert "context_changed" not in events


@pytest.mark.parametrize("theirs_seconds", [INTERVAL_SECONDS / 2, INTERVAL_SECONDS, INTERVAL_SECONDS * 2])
def test_a_profiler_of_an_async_context_is_told_when_its_context_is_left(
    sampler: StackSampler, theirs_seconds: float
) -> None:
    # Given our subscriber
    ours, theirs = Target(), Target()
    private_names.subscribe(sampler, ours.take, interval_seconds=INTERVAL_SECONDS)

    # When the user's joins it from a context, at whatever interval, and that context is left
    context = contextvars.copy_context()
    context.run(sampler.subscribe, theirs.take, desired_interval=theirs_seconds, use_async_context=True)
    context.run(work)
    work()

    # Then it knows, and ours does not mind
    assert theirs.states == {"in_context", "out_of_context_unknown"}
    assert ours.states == {""}

    # And after it has gone ours goes on
    context.run(sampler.unsubscribe, theirs.take)
    before = ours.samples
    work()
    assert ours.samples > before
    private_names.unsubscribe(sampler, ours.take)
    assert sys.getprofile() is None


def test_a_profiler_of_an_async_context_that_comes_first_is_told_too(sampler: StackSampler) -> None:
    # Given a profiler of the user's that is alone on our sampler
    theirs = Target()
    context = contextvars.copy_context()
    context.run(sampler.subscribe, theirs.take, desired_interval=INTERVAL_SECONDS, use_async_context=True)

    # When its context is left
    context.run(work)
    work()

    # Then it knows, and a second one of the same context is refused
    assert theirs.states == {"in_context", "out_of_context_unknown"}
    with pytest.raises(RuntimeError, match="already a profiler"):
        context.run(sampler.subscribe, Target().take, desired_interval=1.0, use_async_context=True)
    context.run(sampler.unsubscribe, theirs.take)
    assert sys.getprofile() is None


def test_a_profiler_with_a_clock_of_its_own_gets_the_time_of_that(sampler: StackSampler) -> None:
    # Given a clock that goes a second with each look
    looks = iter(range(1_000_000))
    sampler.timer_func = lambda: float(next(looks))
    elapsed: list[float] = []

    # When a profiler of the user's is alone on our sampler
    def take(_stack: list[str], seconds: float, _state: AsyncState | None) -> None:
        elapsed.append(seconds)

    sampler.subscribe(take, desired_interval=5.0, use_async_context=False)
    work()
    sampler.unsubscribe(take)

    # Then it is sampled by that clock
    assert elapsed
    assert all(seconds >= 5.0 for seconds in elapsed)


def test_a_profiler_that_asks_for_a_timing_thread_alone_has_one(sampler: StackSampler) -> None:
    theirs = Target()
    sampler.subscribe(theirs.take, desired_interval=0.001, use_timing_thread=True, use_async_context=False)

    # Then another wish is refused, as it would be without us
    with pytest.raises(ValueError, match="timing thread"):
        sampler.subscribe(
            Target().take, desired_interval=0.001, use_timing_thread=False, use_async_context=False
        )
    sampler.subscribers.pop()
    sampler.unsubscribe(theirs.take)


@pytest.mark.parametrize("left", ["between samples", "in a sample"])
@pytest.mark.parametrize("bound", [True, False])
def test_the_first_sample_tells_of_no_time_before_its_profiler(
    sampler: StackSampler, bound: bool, left: str
) -> None:
    # Given a subscriber of ours, gone, and some time since then
    def leave(*_sample: object) -> None:
        if left == "in a sample":
            private_names.unsubscribe(sampler, leave)

    private_names.subscribe(sampler, leave, interval_seconds=INTERVAL_SECONDS)
    work()
    private_names.unsubscribe(sampler, leave)
    cost(0.2)
    elapsed: list[float] = []

    # When a profiler of the user's comes
    def take(_stack: list[str], seconds: float, _state: AsyncState | None) -> None:
        elapsed.append(seconds)

    begun = time.perf_counter()
    sampler.subscribe(take, desired_interval=INTERVAL_SECONDS, use_async_context=bound)
    work()
    sampler.unsubscribe(take)

    # Then
    assert 0 < elapsed[0] < time.perf_counter() - begun


def test_the_next_request_is_cheap_again_after_a_profiler_of_the_users(sampler: StackSampler) -> None:
    # Given a profiler of the user's on our sampler, and gone
    with Profiler(interval=INTERVAL_SECONDS):
        work()

    # Then the next hook is ours alone, and its samples are bounded
    test_the_hook_asks_for_no_context_variable_that_nobody_needs(sampler)
    sampler.__dict__.pop("_sample")
    test_samples_that_cost_much_come_rarely_until_they_are_cheap_again(sampler)


def test_a_sampler_that_is_at_work_stays() -> None:
    # Given a thread whose sampler was made by the user's profiler, which is at work
    found: list[tuple[StackSampler, type[StackSampler]]] = []

    def find() -> None:
        sampler = private_names.stack_sampler()
        found.append((sampler, type(sampler)))

    def user() -> None:
        with Profiler(interval=INTERVAL_SECONDS):
            find()
        find()

    thread = threading.Thread(target=user)
    thread.start()
    thread.join(30)

    # Then it becomes ours only when that has ended, and is the same: a request that rests comes back to it
    (at_work, its_type), (later, later_type) = found
    assert at_work is later
    assert (its_type, later_type) == (StackSampler, ThreadSampler)


class Asked:
    """A subscriber that keeps the stacks from which it was asked what it needs."""

    use_timing_thread = False
    desired_interval = INTERVAL_SECONDS

    def __init__(self) -> None:
        self.stacks: list[list[str]] = []

    @property
    def bound_to_async_context(self) -> bool:
        asking = sys._getframe(1)
        self.stacks.append(stack_sampler.build_call_stack(asking, "initial", None))
        return False


def test_a_sample_in_the_middle_of_a_change_is_recognised(sampler: StackSampler) -> None:
    asked = Asked()
    sampler.subscribers.append(cast("Any", asked))

    sampler._update()
    sampler.subscribers.clear()
    sampler._update()

    assert asked.stacks
    assert all(private_names.sampler_is_changing(stack) for stack in asked.stacks)


def test_a_timing_thread_that_the_user_asked_for_drives_the_hook(sampler: StackSampler) -> None:
    ours, theirs = Target(), Target()
    private_names.subscribe(sampler, ours.take, interval_seconds=INTERVAL_SECONDS)

    sampler.subscribe(
        theirs.take, desired_interval=INTERVAL_SECONDS, use_timing_thread=True, use_async_context=False
    )
    while not theirs.samples:
        work()

    assert ours.samples
    sampler.unsubscribe(theirs.take)
    private_names.unsubscribe(sampler, ours.take)


def cost(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_samples_that_cost_much_come_rarely_until_they_are_cheap_again(sampler) -> None:
    # Given a subscriber whose samples take a hundred intervals, as those of deep stacks may
    taken: list[float] = []
    price = 0.01

    def take(_stack: list[str], _elapsed: float, _state: object) -> None:
        cost(price)
        taken.append(price)

    private_names.subscribe(sampler, take, interval_seconds=INTERVAL_SECONDS)
    # When its thread works
    begun = time.perf_counter()
    while len(taken) < 3:
        work()
    # Then samples have a share of the time, and not all of it
    assert sum(taken) < 0.5 * (time.perf_counter() - begun)
    # And once they are cheap, they come at the interval again
    price = 0.0
    while len(taken) < 5:
        work()
    begun = time.perf_counter()
    while len(taken) < 15:
        work()
    assert time.perf_counter() - begun < 10 * 0.1
    private_names.unsubscribe(sampler, take)


def test_dear_and_cheap_samples_by_turns_have_their_share_too(sampler) -> None:
    # Given a subscriber whose every fourth sample takes a hundred intervals, as where deep stacks come and go
    taken: list[float] = []

    def take(_stack: list[str], _elapsed: float, _state: object) -> None:
        taken.append(0.0 if len(taken) % 4 else 0.01)
        cost(taken[-1])

    private_names.subscribe(sampler, take, interval_seconds=INTERVAL_SECONDS)
    # When its thread works
    begun = time.perf_counter()
    while sum(taken) < 0.045:
        work()
    # Then the dear ones have a share of the time, and not all of it
    assert sum(taken) < 0.5 * (time.perf_counter() - begun)
    private_names.unsubscribe(sampler, take)


@pytest.mark.parametrize("later_seconds", [0.0, 0.001], ids=["cheap", "somewhat dear"])
def test_a_single_sample_that_cost_much_delays_no_other(sampler, later_seconds: float) -> None:
    # Given a subscriber with one sample that takes far more than an interval, as with a collection of garbage
    taken: list[float] = []
    price = 0.05

    def take(_stack: list[str], _elapsed: float, _state: object) -> None:
        cost(price if len(taken) == 1 else later_seconds)
        taken.append(time.perf_counter())

    private_names.subscribe(sampler, take, interval_seconds=INTERVAL_SECONDS)
    # When its thread works on
    while len(taken) < 4:
        work()
    # Then the next ones come long before that has become a small share of the time
    assert taken[3] - taken[1] < 5 * price
    private_names.unsubscribe(sampler, take)


def test_samples_that_cost_nearly_their_share_delay_no_dear_one(sampler: StackSampler) -> None:
    # Given a subscriber with many samples that take a little more than their share, and then a dear one
    taken: list[float] = []
    price = 0.05

    def take(_stack: list[str], _elapsed: float, _state: object) -> None:
        cost(price if len(taken) == 200 else 0.00025)
        taken.append(time.perf_counter())

    private_names.subscribe(sampler, take, interval_seconds=0.002)
    # When its thread works on
    while len(taken) < 202:
        work()
    # Then
    assert taken[201] - taken[200] < 2 * price
    private_names.unsubscribe(sampler, take)
