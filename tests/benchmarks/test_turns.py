"""What is made of the turns of a benchmark."""

from __future__ import annotations

import pytest

from benchmarks.overhead.turns import Measured


def test_the_error_is_that_between_processes() -> None:
    # Given two processes of two turns; each process is steady, but the second one is slower
    base = Measured(processes=2, cpu_seconds=[1.0, 1.0, 1.0, 1.0])
    mine = Measured(processes=2, cpu_seconds=[1.1, 1.1, 1.3, 1.3])

    ratio, error = mine.ratio_to(base)

    # Then the ratio is of the sums, 2.2 and 2.6 over 2, and the error that of their mean
    assert ratio == pytest.approx(1.2)
    assert error == pytest.approx(0.1)


def test_the_error_of_one_process_is_that_between_its_turns() -> None:
    base = Measured(processes=1, cpu_seconds=[1.0, 1.0])
    mine = Measured(processes=1, cpu_seconds=[1.1, 1.3])

    ratio, error = mine.ratio_to(base)

    assert (ratio, error) == (pytest.approx(1.2), pytest.approx(0.1))
