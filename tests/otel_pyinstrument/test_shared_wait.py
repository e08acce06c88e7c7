"""Work side by side shares the wait for it, moment by moment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_pyinstrument.shared_wait import SharedWait


class Unit:
    """Something that waits, and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.shared = SharedWait(lambda: self.now)

    def waits(self, seconds: float) -> None:
        self.shared.set_waits(True, self.now)
        self.now += seconds

    def runs(self, seconds: float) -> None:
        self.shared.set_waits(False, self.now)
        self.now += seconds


def test_work_alone_has_all_of_the_wait_and_nothing_else() -> None:
    unit = Unit()
    unit.waits(1.0)
    unit.shared.begin_hop()
    start = unit.shared.seconds()

    # When the unit runs in between
    unit.waits(2.0)
    unit.runs(4.0)
    unit.waits(3.0)

    assert unit.shared.seconds() - start == pytest.approx(5.0)


def test_only_what_runs_at_the_same_time_shares() -> None:
    # Given work for three seconds, beside which other work runs in the last one
    unit = Unit()
    unit.shared.begin_hop()
    start = unit.shared.seconds()
    unit.waits(2.0)
    unit.shared.begin_hop()
    start_of_other = unit.shared.seconds()
    unit.waits(1.0)
    end = unit.shared.seconds()
    unit.shared.end_hop()
    unit.shared.end_hop()
    unit.waits(9.0)

    assert end - start == pytest.approx(2.5)
    assert end - start_of_other == pytest.approx(0.5)
    assert unit.shared.seconds() == end


def test_a_change_that_is_told_late_takes_nothing_back() -> None:
    # Given somebody who has read the clock between a change and its telling
    unit = Unit()
    unit.shared.begin_hop()
    unit.waits(1.0)
    changed_at = unit.now
    unit.now += 1.0
    read = unit.shared.seconds()

    unit.shared.set_waits(False, changed_at)

    assert unit.shared.seconds() == read


MOMENTS = st.lists(
    st.tuples(
        st.sampled_from(["waits", "runs"]),
        st.floats(0, 10),
        st.sets(st.integers(0, 3)).map(frozenset),
    ),
    max_size=20,
)


@given(moments=MOMENTS)
def test_what_all_have_sums_to_the_wait_for_them(
    moments: list[tuple[str, float, frozenset[int]]],
) -> None:
    # Given work that begins and ends at any time
    unit = Unit()
    began: dict[int, float] = {}
    given_away = waited = 0.0
    for state, seconds, running in [*moments, ("runs", 0.0, frozenset[int]())]:
        for number in began.keys() - running:
            given_away += unit.shared.seconds() - began.pop(number)
            unit.shared.end_hop()
        for number in running - began.keys():
            began[number] = unit.shared.seconds()
            unit.shared.begin_hop()
        getattr(unit, state)(seconds)
        waited += seconds if state == "waits" and running else 0.0

    assert given_away == pytest.approx(waited)
