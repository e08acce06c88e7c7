"""A roller that knows fewer marks than wait still works all of them off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId

from profile_store.mongodb import rollup_marks
from profile_store.mongodb.rollup_marks import MINUTES, MarkKey, SettlingMarks

PASS_SECONDS = 5.0
LIMIT = 20_000


class Roller:
    """Asks about all marks of the database in each pass, and works some of the settled ones off."""

    def __init__(self, marks: int) -> None:
        self.now = 1_000.0
        self.settling = SettlingMarks(lambda: self.now)
        self.waiting: dict[MarkKey, ObjectId] = {}
        self.most_remembered = 0
        self.add(marks)

    def add(self, marks: int) -> None:
        project, first = ObjectId(), datetime(2026, 11, 21, tzinfo=UTC)
        self.waiting |= {
            MarkKey(project, MINUTES, first - timedelta(minutes=n)): ObjectId() for n in range(marks)
        }

    def step(self, at_once: int = LIMIT, seconds: float = PASS_SECONDS) -> list[MarkKey]:
        """The marks that were settled, of which at most `at_once` are worked off."""
        settled = [key for key, value in self.waiting.items() if self.settling.is_settled(key, value)]
        self.most_remembered = max(self.most_remembered, len(self.settling._seen))
        for key in settled[:at_once]:
            del self.waiting[key]
            self.settling.forget(key)
        self.now += seconds
        return settled


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup_marks, "_MAX_REMEMBERED", LIMIT)


def test_fifty_thousand_marks_all_settle_in_bounded_memory():
    # Given far more marks than a roller remembers
    roller = Roller(50_000)
    # When it works some of them off in each pass
    passes = 0
    while roller.waiting and passes < 40:
        roller.step(at_once=5_000)
        passes += 1
    # Then none is left
    assert roller.waiting == {}
    assert roller.most_remembered == LIMIT


def test_what_is_put_off_stays_so_while_more_marks_wait_than_are_remembered():
    # Given a mark that could not be computed
    roller = Roller(50_000)
    roller.step(at_once=0, seconds=11.0)
    put_off = roller.step(at_once=0)[0]
    value = roller.waiting.pop(put_off)
    began = roller.now
    roller.settling.put_off(put_off, value)
    # When steps work on the others for five minutes, some of them without asking for it
    for _ in range(19):
        roller.step(at_once=1_000, seconds=15.0)
    roller.waiting = {put_off: value, **roller.waiting}
    # Then it is put off, and settles after that
    assert roller.now < began + 310
    assert put_off not in roller.step(at_once=1_000)
    assert roller.settling.is_put_off(put_off)
    roller.now = began + 311
    assert put_off in roller.step()


def test_marks_that_other_rollers_deleted_make_room():
    # Given a roller that remembers as many marks as it can, of which others have deleted all
    roller = Roller(LIMIT)
    roller.step(at_once=0)
    roller.waiting.clear()
    roller.add(10)
    # When other marks wait for a minute and a half
    settled = [roller.step() for _ in range(18)]
    # Then they settle
    assert sum(map(len, settled)) == 10
    assert roller.waiting == {}


def test_marks_that_nobody_works_off_stay_settled():
    # Given more marks than are remembered
    roller = Roller(50_000)
    # When they wait for two minutes
    settled = [len(roller.step(at_once=0)) for _ in range(24)]
    # Then those that were known first are settled all the time
    assert settled == [0, 0, *[LIMIT] * 22]


def test_marks_are_still_known_after_a_step_that_takes_long():
    # Given more marks than are remembered, and a step that takes minutes
    roller = Roller(50_000)
    roller.step(at_once=0, seconds=400.0)
    # Then those that were known have settled
    assert len(roller.step()) == LIMIT
