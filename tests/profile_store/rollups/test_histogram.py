"""The stated error of quantiles, against exact ones."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profile_store.rollups.histogram import (
    GAMMA,
    MAX_DURATION_US,
    MAX_INDEX,
    RELATIVE_ERROR,
    LatencyHistogram,
    bucket_index,
    bucket_value_us,
)

durations_us = st.one_of(
    st.floats(min_value=1, max_value=MAX_DURATION_US, allow_nan=False),
    st.integers(min_value=1, max_value=60_000_000).map(float),
    st.sampled_from([GAMMA**power for power in (1, 2, 50, 500)]),
)
shares = st.one_of(st.floats(min_value=0, max_value=1), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))


def histogram_of(values: list[float]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(bucket_index(value))
    return histogram


def exact_quantile(values: list[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


@given(st.lists(durations_us, min_size=1, max_size=200), shares)
def test_a_quantile_is_within_the_stated_error_of_the_exact_one(values, share):
    estimate = histogram_of(values).quantile_us(share)
    # A hair more than one percent, for the logarithm's own rounding.
    assert estimate == pytest.approx(exact_quantile(values, share), rel=RELATIVE_ERROR * 1.000_001)


@given(st.lists(st.lists(durations_us, max_size=50), min_size=1, max_size=8), shares, st.randoms())
def test_merged_histograms_say_what_one_over_everything_says(lists, share, order):
    # Given histograms of parts, some of them empty
    parts = [histogram_of(values) for values in lists]
    order.shuffle(parts)
    # When they are merged in any order
    merged = LatencyHistogram()
    for part in parts:
        merged.merge(part)
    # Then nothing was lost by dividing
    whole = histogram_of([value for values in lists for value in values])
    assert merged == whole
    assert merged.quantile_us(share) == whole.quantile_us(share)


@given(st.lists(durations_us, max_size=100))
def test_a_stored_histogram_comes_back_as_it_was(values):
    histogram = histogram_of(values)
    assert LatencyHistogram.from_pairs(histogram.as_pairs()) == histogram
    assert histogram.count == len(values)


@given(durations_us)
def test_a_duration_lies_between_the_bounds_of_its_bucket(value):
    [(above, up_to, count)] = histogram_of([value]).buckets()
    assert count == 1
    assert above * (1 - 1e-9) <= value <= up_to * (1 + 1e-9)


@pytest.mark.parametrize("nothing", [0.0, -1.0, 0.3, 1.0, math.nan, -math.inf])
def test_what_is_no_longer_than_a_microsecond_is_in_the_first_bucket(nothing):
    assert bucket_index(nothing) == 0
    assert histogram_of([nothing]).quantile_us(0.5) == 1.0


@pytest.mark.parametrize("huge", [MAX_DURATION_US, 1e300, math.inf])
def test_no_duration_has_a_bucket_beyond_the_last_one(huge):
    assert bucket_index(huge) == MAX_INDEX
    assert bucket_value_us(MAX_INDEX) == pytest.approx(MAX_DURATION_US, rel=2 * RELATIVE_ERROR)


def test_without_requests_there_is_no_quantile():
    assert LatencyHistogram().quantile_us(0.5) is None


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        histogram_of([1.0]).quantile_us(share)
