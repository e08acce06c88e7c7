from __future__ import annotations

import pytest

from otel_pyinstrument.cpu_budget import CpuBudget


class Clocks:
    """CPU seconds of the process, seconds on the wall, and what requests have paid at rest."""

    def __init__(self) -> None:
        self.cpu = 7.0
        self.wall = 1000.0
        self.standing = 3.0

    def work(self, seconds: float, *, busy: float = 1.0) -> None:
        self.cpu += seconds * busy
        self.wall += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def budget(clocks: Clocks, share: float = 0.01) -> CpuBudget:
    return CpuBudget(
        share,
        process_seconds=lambda: clocks.cpu,
        standing_seconds=lambda: clocks.standing,
        clock=lambda: clocks.wall,
    )


def test_it_earns_a_share_of_the_cpu_time(clocks: Clocks) -> None:
    made = budget(clocks)
    before = made.balance()

    clocks.work(10)

    assert made.balance() - before == pytest.approx(0.1)


def test_two_busy_threads_earn_twice(clocks: Clocks) -> None:
    made = budget(clocks)
    before = made.balance()

    clocks.work(5, busy=2)

    assert made.balance() - before == pytest.approx(0.1)


def test_an_idle_process_earns_as_one_that_is_busy_for_a_tenth(clocks: Clocks) -> None:
    made = budget(clocks)
    before = made.balance()

    clocks.work(100, busy=0.001)

    assert made.balance() - before == pytest.approx(0.1)


def test_it_holds_what_thirty_busy_seconds_earn(clocks: Clocks) -> None:
    made = budget(clocks)
    assert made.balance() == pytest.approx(0.1)

    clocks.work(10_000)

    assert made.balance() == made.capacity == pytest.approx(0.3)


def test_a_debt_has_to_be_earned_first(clocks: Clocks) -> None:
    made = budget(clocks)
    made.spend(1.1)
    assert made.balance() == pytest.approx(-1)

    clocks.work(99)
    assert made.balance() < 0
    clocks.work(2)
    assert made.balance() > 0


def test_what_requests_pay_at_rest_is_paid_from_what_is_earned(clocks: Clocks) -> None:
    made = budget(clocks)
    before = made.balance()

    clocks.work(10)
    clocks.standing += 0.03

    assert made.balance() - before == pytest.approx(0.1 - 0.03)
    assert made.balance() - before == pytest.approx(0.1 - 0.03), "it is paid once"


def test_half_of_what_is_earned_is_for_profiles_however_much_requests_pay_at_rest(clocks: Clocks) -> None:
    made = budget(clocks)
    before = made.balance()

    clocks.work(10)
    clocks.standing += 5

    assert made.balance() - before == pytest.approx(0.05)


def test_what_was_paid_at_rest_is_no_debt_of_later_work(clocks: Clocks) -> None:
    made = budget(clocks)
    clocks.work(10)
    clocks.standing += 5
    before = made.balance()

    clocks.work(10)

    assert made.balance() - before == pytest.approx(0.1)


def test_clocks_that_go_back_earn_nothing(clocks: Clocks) -> None:
    made = budget(clocks)
    before = made.balance()

    clocks.work(-5)

    assert made.balance() == before


def test_a_share_of_one_is_no_limit(clocks: Clocks) -> None:
    assert budget(clocks, 1).unlimited
    assert not budget(clocks, 0.99).unlimited
