"""The text of a partial success."""

from collector_receiver.outcome import Outcome


def test_nothing_happened_means_no_message():
    assert (Outcome().message(), Outcome().rejected_count) == ("", 0)


def test_every_reason_is_named_with_its_count_most_frequent_first():
    outcome = Outcome()
    outcome.reject("invalid_span_id")
    outcome.reject("invalid_trace_id", 3)
    outcome.reject("never", 0)
    outcome.warn("profile_not_zlib")

    assert outcome.rejected_count == 4
    assert outcome.message() == (
        "spans rejected: invalid_trace_id 3, invalid_span_id 1; spans kept with a change: profile_not_zlib 1"
    )


def test_the_message_is_at_most_one_kibibyte():
    outcome = Outcome()
    for number in range(200):
        outcome.reject(f"reason_é_{number}")

    assert len(outcome.message().encode()) <= 1_024
