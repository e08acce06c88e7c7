"""Sums that do not depend on how requests were divided, and the bound on groups."""

from __future__ import annotations

import copy
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profile_store.rollups.bucket import (
    OTHER,
    Bucket,
    GroupKey,
    merged,
    pack_groups,
    pack_total,
    unpack_groups,
    unpack_total,
)
from profile_store.rollups.histogram import LatencyHistogram, bucket_index
from profile_store.rollups.measures import MAX_PER_REQUEST, Measures, microseconds

names = st.sampled_from(["GET /a", "GET /b", "POST /ü", ""])
group_keys = st.builds(GroupKey, names, st.sampled_from(["GET", "POST"]), names, names)


@st.composite
def one_request(draw: st.DrawFn) -> Measures:
    duration_us = draw(st.integers(min_value=0, max_value=2**62))
    profiled = draw(st.booleans())
    status_class = draw(st.integers(min_value=0, max_value=5))
    start_ms = draw(st.integers(min_value=0, max_value=2**41))
    return Measures(
        count=1,
        failed=draw(st.integers(min_value=0, max_value=1)),
        status_classes=[int(status_class == position) for position in range(6)],
        duration_us=duration_us,
        min_us=duration_us,
        max_us=duration_us,
        first_ms=start_ms,
        last_ms=start_ms,
        profiles=int(profiled),
        cpu_us=7 * profiled,
        cpu_requests=int(profiled),
        latencies=LatencyHistogram({bucket_index(duration_us): 1}),
    )


requests = st.lists(st.tuples(group_keys, one_request()), max_size=30)


def bucket_of(items) -> Bucket:
    bucket = Bucket()
    for key, measures in items:
        bucket.add(key, measures)
    return bucket


@given(requests, st.lists(st.integers(min_value=0, max_value=3), min_size=30, max_size=30), st.randoms())
def test_dividing_requests_into_buckets_changes_no_number(items, places, order):
    # Given the same requests as one bucket, and divided into four in any order
    parts = [[item for item, place in zip(items, places, strict=False) if place == n] for n in range(4)]
    order.shuffle(parts)
    # Then merging gives the one bucket, to the last number
    assert merged(bucket_of(part) for part in parts) == bucket_of(items)


@given(requests)
def test_a_stored_bucket_comes_back_as_it_was(items):
    bucket = bucket_of(items)
    assert unpack_total(pack_total(bucket)) == bucket.total
    assert unpack_groups(pack_groups(bucket)) == bucket.groups


@given(requests, st.randoms())
def test_equal_buckets_are_equal_bytes(items, order):
    shuffled = list(items)
    order.shuffle(shuffled)
    assert pack_groups(bucket_of(items)) == pack_groups(bucket_of(shuffled))


@given(requests, st.integers(min_value=1, max_value=5))
def test_groups_beyond_the_limit_are_counted_together_and_nothing_is_lost(items, limit):
    bucket = bucket_of(items)
    everything = copy.deepcopy(bucket)
    bucket.cap(limit)
    assert len(bucket.groups) <= limit + 1
    assert bucket.total == everything.total
    together = Measures()
    for measures in bucket.groups.values():
        together.merge(measures)
    assert together == bucket.total
    kept = [bucket.groups[key].count for key in bucket.groups if key != OTHER]
    dropped = [m.count for key, m in everything.groups.items() if key not in bucket.groups]
    assert min(kept, default=0) >= max(dropped, default=0)


@given(st.permutations(range(12)), st.integers(min_value=1, max_value=5))
def test_capping_on_the_way_gives_what_capping_at_the_end_gives(order, limit):
    # Given complete groups with different numbers of requests, some equal
    keys = [GroupKey(f"GET /{n}", "GET", "", "") for n in range(12)]
    groups = {key: Measures(count=1 + n // 2, duration_us=n) for n, key in enumerate(keys)}
    at_the_end, on_the_way = Bucket(), Bucket()
    for position in order:
        key = keys[position]
        at_the_end.add(key, groups[key])
        on_the_way.add(key, groups[key])
        on_the_way.cap(limit)
    at_the_end.cap(limit)
    assert at_the_end == on_the_way


def test_a_group_that_is_not_told_apart_is_found_among_the_others():
    bucket = bucket_of([(GroupKey("GET /a", "GET", "1", ""), Measures(count=2))])
    assert bucket.measures_of(GroupKey("GET /a", "GET", "1", "")).count == 2
    bucket.measures_of(GroupKey("GET /new", "GET", "1", "")).profiles += 1
    assert bucket.groups[OTHER].profiles == 1


DAMAGED = [b"", b"no zlib", *(zlib.compress(text) for text in (b"no json", b"[1]", b"[[1]]", b"7"))]


@pytest.mark.parametrize("damaged", DAMAGED)
@pytest.mark.parametrize("unpack", [unpack_total, unpack_groups])
def test_a_damaged_bucket_is_refused_and_nothing_else_is_raised(unpack, damaged):
    with pytest.raises(ValueError):
        unpack(damaged)


@pytest.mark.parametrize("nothing", [None, "1", float("nan"), float("inf"), -1.0])
def test_what_is_no_duration_counts_as_none(nothing):
    assert microseconds(nothing) == 0


@pytest.mark.parametrize("seconds", [1e308, -1e308, 5e12, 10**400, -(10**400)])
def test_a_finite_number_that_64_bits_cannot_hold_counts_as_none(seconds):
    assert microseconds(seconds) == 0


def test_the_longest_span_of_otlp_is_a_duration():
    assert microseconds(2**63 / 1e9) == pytest.approx(2**63 / 1e3, abs=2)


def test_what_is_believed_of_a_million_requests_sums_up_in_64_bits():
    longest = microseconds(MAX_PER_REQUEST / 1e6, at_most=MAX_PER_REQUEST)
    assert 100 * 24 * 3_600 * 1_000_000 < longest < 2**63 / 1_000_000
    assert microseconds(MAX_PER_REQUEST / 1e6 + 1, at_most=MAX_PER_REQUEST) == 0
