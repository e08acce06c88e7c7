"""The profile event is found, read, and refused by name when it is broken."""

import base64
import json
import time
import zlib

import pytest

from collector_receiver.profile_event import (
    BrokenProfile,
    DecodeBudget,
    TooCostlyHere,
    read_profile,
    take_profile_event,
)
from otel_pyinstrument.call_tree import InvalidPayload, decode


def read(make, budget=None, **changes):
    span = make.span(events=[make.profile_event(**changes)])
    return read_profile(take_profile_event(span).attributes, budget or DecodeBudget())


def test_the_event_is_taken_out_and_the_users_events_stay(make):
    span = make.span(events=[("first", {}), make.profile_event(), ("last", {}), make.profile_event()])

    event = take_profile_event(span)

    assert event.name == "pyinstrument.profile"
    assert [event.name for event in span.events] == ["first", "last"]


def test_many_profile_events_among_others_are_taken_out_at_once(make):
    # Given 100,000 events in turns: taken out one by one they would keep the receiver busy for seconds
    span = make.span()
    for position in range(100_000):
        span.events.add(name="pyinstrument.profile" if position % 2 else "mine", time_unix_nano=position)

    # When the profile is taken
    begin = time.thread_time()
    event = take_profile_event(span)
    taken_seconds = time.thread_time() - begin

    # Then it is the first one, the user's stay in order, and it took no longer than reading them a few times
    begin = time.thread_time()
    names = [other.name for other in span.events]
    read_seconds = time.thread_time() - begin
    assert (event.time_unix_nano, set(names), len(names)) == (1, {"mine"}, 50_000)
    assert [other.time_unix_nano for other in span.events] == list(range(0, 100_000, 2))
    assert taken_seconds < 40 * read_seconds


def test_a_span_without_profile_has_none(make):
    span = make.span(events=[("pyinstrument.profile.other", {})])

    assert take_profile_event(span) is None
    assert len(span.events) == 1


def test_facts_and_hot_functions_come_from_the_tree(make):
    # Given attributes that disagree with the tree about what the tree knows
    profile = read(make, sample_count=10**9, node_count=-1)

    assert (profile.facts.sample_count, profile.facts.node_count) == (2, 4)
    assert (profile.facts.interval, profile.facts.duration, profile.facts.cpu_time) == (0.01, 0.25, 0.2)
    assert (profile.facts.reason, profile.facts.truncated, profile.facts.interrupted) == (
        "slow",
        False,
        False,
    )
    hottest = profile.hot_functions[0]
    assert (hottest.function, hottest.file, hottest.module, hottest.line) == (
        "load_orders",
        "shop/orders.py",
        "shop.orders",
        7,
    )
    assert (hottest.self_duration, hottest.duration, hottest.share) == (0.2, 0.2, pytest.approx(0.8))


def test_bytes_and_text_payloads_mean_the_same(make):
    span = make.span(events=[make.text_profile_event()])
    as_text = read_profile(take_profile_event(span).attributes, DecodeBudget())

    assert as_text.payload == read(make).payload
    assert decode(as_text.payload).duration_us == 250_000


@pytest.mark.parametrize(
    ("changes", "duration", "cpu_time", "interval"),
    [
        ({"duration": None, "cpu_time": None, "interval": None}, 0.25, None, 0.0),
        ({"duration": -1.0, "cpu_time": float("nan"), "interval": float("inf")}, 0.25, None, 0.0),
        ({"duration": "1", "cpu_time": True, "interval": b"1"}, 0.25, None, 0.0),
        ({"duration": 1e308, "cpu_time": 1e308, "interval": 1e308}, 0.25, None, 0.0),
        ({"duration": 2**63 - 1, "cpu_time": 2**63 - 1, "interval": -(2**63)}, 0.25, None, 0.0),
        ({"duration": 3, "cpu_time": 0, "interval": 1}, 3.0, 0.0, 1.0),
        ({"duration": 8.64e6, "cpu_time": 8.64e6, "interval": 8.64e6}, 8.64e6, 8.64e6, 8.64e6),
    ],
)
def test_times_that_make_no_sense_are_replaced(make, changes, duration, cpu_time, interval):
    facts = read(make, **changes).facts

    assert (facts.duration, facts.cpu_time, facts.interval) == (duration, cpu_time, interval)


def test_the_facts_of_the_request_are_kept_as_they_came(make):
    facts = json.dumps({"memory": {"rss": 1}})

    assert read(make, facts=facts).request_facts == facts
    assert read(make).request_facts == ""


@pytest.mark.parametrize(
    "facts",
    [
        "",
        "{",
        "[]",
        "null",
        5,
        b"{}",
        '{"a": 1',
        "[" * 16_000,
        '{"a": "' + "x" * 16_384 + '"}',
        '{"a": "\0"}',
    ],
)
def test_facts_that_cannot_be_read_are_dropped_and_the_profile_stays(make, facts):
    profile = read(make, facts=facts)

    assert profile.request_facts == ""
    assert profile.facts.node_count == 4


@pytest.mark.parametrize("reason", ["<script>", None, 5, "x" * 10_000])
def test_a_reason_that_nobody_knows_is_unknown(make, reason):
    assert read(make, reason=reason).facts.reason == "unknown"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "profile_unknown_format"),
        ({"format": "1"}, "profile_unknown_format"),
        ({"format": None}, "profile_unknown_format"),
        ({"encoding": "pickle"}, "profile_unknown_encoding"),
        ({"encoding": ["zlib+json"]}, "profile_unknown_encoding"),
        ({"payload": ""}, "profile_incomplete"),
        ({"payload": b"junk"}, "profile_not_zlib"),
        ({"payload": "not base64!"}, "profile_not_base64"),
        ({"payload": "é"}, "profile_not_base64"),
        ({"payload": 17}, "profile_payload_of_wrong_type"),
        ({"payload": {"a": b"b"}}, "profile_payload_of_wrong_type"),
        ({"payload": b"x" * (1 << 20) + b"x"}, "profile_payload_too_large"),
        ({"payload": zlib.compress(b"[]")}, "profile_wrong_type"),
        ({"payload": zlib.compress(b"{")}, "profile_not_json"),
        ({"payload": zlib.compress(json.dumps({"v": 2}).encode())}, "profile_unsupported_version"),
    ],
)
def test_a_broken_profile_has_a_named_reason(make, changes, reason):
    with pytest.raises(BrokenProfile) as broken:
        read(make, **changes)

    assert broken.value.reason == reason


def test_a_missing_payload_is_named(make):
    span = make.span(
        events=[("pyinstrument.profile", {"pyinstrument.format": 1, "pyinstrument.encoding": "zlib+json"})]
    )

    with pytest.raises(BrokenProfile, match="profile_without_payload"):
        read_profile(take_profile_event(span).attributes, DecodeBudget())


def test_text_that_was_cut_on_the_way_is_refused(make):
    """OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT cuts long attribute values."""
    text = base64.b64encode(make.payload()).decode()

    with pytest.raises(BrokenProfile, match="profile_incomplete"):
        read(make, payload=text[: len(text) // 2 // 4 * 4], encoding="zlib+json+base64")


def test_many_small_bombs_in_one_request_share_one_budget(make):
    # Given payloads of 30 KB that unfold to 31 MiB of spaces each
    bomb = zlib.compress(b" " * (31 << 20))
    budget = DecodeBudget()

    # When one request brings them again and again
    reasons = []
    for _ in range(5):
        with pytest.raises(BrokenProfile) as broken:
            read(make, budget, payload=bomb)
        reasons.append(broken.value.reason)

    # Then only the first ones are looked into
    assert reasons[:2] == ["profile_not_json"] * 2
    assert reasons[2:] == ["profile_budget_of_request_used_up"] * 3


def test_the_budget_counts_what_a_bomb_unfolds_to_before_it_breaks(make):
    broken_at_the_end = zlib.compress(b" " * (31 << 20))[:-4] + b"junk"
    budget = DecodeBudget()
    before = budget.left

    with pytest.raises(BrokenProfile):
        read(make, budget, payload=broken_at_the_end)

    assert before - budget.left > 30 << 20


def test_on_the_event_loop_more_than_some_usual_profiles_are_too_costly_and_none_is_broken(make):
    # Given what may be decoded where others wait
    budget = DecodeBudget.on_loop()
    for _ in range(10):
        read(make, budget)

    # When a profile comes that unfolds to more
    with pytest.raises(TooCostlyHere):
        read(make, budget, payload=zlib.compress(b" " * 100_000))


def test_usual_profiles_are_far_from_the_budget(make):
    budget = DecodeBudget()

    for _ in range(100):
        read(make, budget)


def test_the_payload_that_is_kept_decodes_again(make):
    try:
        assert decode(read(make).payload).node_count == 4
    except InvalidPayload as error:
        pytest.fail(str(error))
