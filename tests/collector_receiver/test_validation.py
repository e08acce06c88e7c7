"""Which spans are refused, and under which name."""

import pytest

from collector_receiver.validation import is_sound, parent_of, refusal


def test_a_valid_span_is_not_refused(make):
    assert refusal(make.span()) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trace_id": b""}, "invalid_trace_id"),
        ({"trace_id": b"12345"}, "invalid_trace_id"),
        ({"trace_id": b"x" * 24}, "invalid_trace_id"),
        ({"trace_id": bytes(16)}, "invalid_trace_id"),
        ({"span_id": b""}, "invalid_span_id"),
        ({"span_id": b"x" * 16}, "invalid_span_id"),
        ({"span_id": bytes(8)}, "invalid_span_id"),
        ({"parent_span_id": b"x" * 7}, "invalid_parent_span_id"),
        ({"start_time_unix_nano": 0}, "missing_start_time"),
        ({"start_time_unix_nano": 2**63}, "time_out_of_range"),
        ({"end_time_unix_nano": 2**64 - 1}, "time_out_of_range"),
    ],
)
def test_a_span_that_cannot_be_stored_is_refused_by_name(make, changes, reason):
    assert refusal(make.span(**changes)) == reason


def test_the_last_storable_time_is_accepted(make):
    assert refusal(make.span(start_time_unix_nano=2**63 - 1, end_time_unix_nano=2**63 - 1)) is None


@pytest.mark.parametrize(("parent", "expected"), [(b"", None), (bytes(8), None), (b"12345678", b"12345678")])
def test_an_absent_or_zero_parent_is_no_parent(make, parent, expected):
    assert parent_of(make.span(parent_span_id=parent)) == expected


SOUND = {
    "trace_id": b"t" * 16,
    "span_id": b"s" * 8,
    "parent_span_id": b"",
    "start_time_unix_nano": 1,
    "end_time_unix_nano": 1,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parent_span_id": b"p" * 8},
        *({"trace_id": value} for value in (b"", b"t" * 15, b"t" * 24, bytes(16))),
        *({"span_id": value} for value in (b"", b"s" * 16, bytes(8))),
        {"parent_span_id": b"p" * 7},
        *({"start_time_unix_nano": value} for value in (0, 2, 2**63)),
        *({"end_time_unix_nano": value} for value in (0, 2**63 - 1, 2**63)),
    ],
)
def test_only_what_is_never_refused_looks_sound(make, changes):
    values = SOUND | changes

    ends_before_its_start = values["end_time_unix_nano"] < values["start_time_unix_nano"]
    assert is_sound(*values.values()) == (refusal(make.span(**values)) is None and not ends_before_its_start)
