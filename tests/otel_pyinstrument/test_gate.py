from __future__ import annotations

import gc
import random
import sys
import threading

import pytest

from otel_pyinstrument import gate as gate_module
from otel_pyinstrument.gate import Gate


class Finished:
    """Stands where a recording stands."""


def test_everything_is_admitted_at_rate_one() -> None:
    gate = Gate(rate=1, max_concurrent=1000)
    slots = [gate.admit() for _ in range(1000)]

    assert all(slots)


def test_the_rate_is_the_share_that_is_admitted() -> None:
    gate = Gate(rate=0.2, max_concurrent=10_000)
    gate._random = random.Random(1)
    slots = [gate.admit() for _ in range(10_000)]

    assert sum(slot is not None for slot in slots) == pytest.approx(2000, rel=0.1)


def test_random_numbers_of_a_seeded_application_stay_the_same() -> None:
    # Given an application that seeds the shared generator
    random.seed(5)
    expected = random.random()
    random.seed(5)

    # When the gate decides
    gate = Gate(rate=0.5, max_concurrent=10)
    for _ in range(100):
        gate.admit()

    assert random.random() == expected


def test_a_released_slot_is_free_again() -> None:
    gate = Gate(rate=1, max_concurrent=1)
    slot = gate.admit()
    assert gate.admit() is None

    slot.release()
    slot.release()

    second = gate.admit()
    assert second is not None
    assert gate.admit() is None


def test_a_forgotten_slot_is_free_again() -> None:
    gate = Gate(rate=1, max_concurrent=1)
    gate.admit()
    gc.collect()

    assert gate.admit() is not None


def test_forgetting_runs_no_python_in_the_application() -> None:
    # Given a slot and a recording that are dropped without a word
    gate = Gate(rate=1, max_concurrent=1)
    forgotten = [gate.admit(), Finished()]
    gate.hold(forgotten[1], 1)
    calls: list[str] = []

    # When they go, in the middle of whatever the application does
    sys.setprofile(lambda frame, event, _argument: calls.append(f"{event} {frame.f_code.co_name}"))
    del forgotten[:]
    sys.setprofile(None)

    # Then no finalizer ran, in which the exception of a signal handler would be lost
    assert [call for call in calls if call.startswith("call")] == []


def test_threads_never_get_more_slots_than_there_are() -> None:
    # Given many threads that ask at once
    gate = Gate(rate=1, max_concurrent=3)
    slots: list[object] = []
    barrier = threading.Barrier(16)

    def ask() -> None:
        barrier.wait()
        slots.append(gate.admit())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(slot is not None for slot in slots) == 3


def test_nothing_is_admitted_while_finished_trees_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given trees that nobody encodes
    monkeypatch.setattr(gate_module, "_MAX_WAITING_NODES", 100)
    gate = Gate(rate=1, max_concurrent=10)
    waiting = [Finished(), Finished()]
    gate.hold(waiting[0], 50)
    gate.hold(waiting[1], 50)
    assert gate.admit() is None

    # When one of them is encoded, or its span dropped
    waiting.pop()
    gc.collect()

    assert gate.admit() is not None


def test_a_forked_child_starts_with_its_own_places_and_numbers() -> None:
    # Given a gate with all places taken
    gate = Gate(rate=1, max_concurrent=1)
    parents = gate.admit()
    before = gate._random

    # When it is reset, as after a fork
    gate.reset()

    # Then there is a place, and what the parent's slot does concerns nobody
    slot = gate.admit()
    assert slot is not None
    parents.release()
    assert gate.admit() is None
    assert gate._random is not before
