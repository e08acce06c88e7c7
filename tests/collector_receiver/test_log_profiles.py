"""Log records to profiles, without a store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from collector_receiver.log_profiles import only_profiles, translate
from collector_receiver.translation import Destination

SHOP = Destination(project_id="shop")


def translated(request, destination=SHOP):
    kept = only_profiles(request)
    return translate(kept, [destination] * len(kept.resource_logs))


def test_a_profile_keeps_what_its_record_will_show(make):
    log = make.profile_log(facts='{"memory":{}}')

    [profile] = translated(make.logs(log)).batch.profiles

    assert (profile.project_id, profile.trace_id, profile.span_id) == ("shop", log.trace_id, log.span_id)
    assert (profile.profile.reason, profile.facts) == ("slow", '{"memory":{}}')
    assert profile.hot_functions[0].function == "load_orders"
    assert int(profile.timestamp.timestamp()) == log.time_unix_nano // 10**9


def test_the_payload_may_be_text(make):
    _, attributes = make.text_profile_event()
    log = make.profile_log()
    del log.attributes[:]
    log.attributes.extend(make.pairs(attributes))

    [profile] = translated(make.logs(log)).batch.profiles

    assert profile.payload == make.payload()


def test_other_log_records_are_left_out(make):
    lines = [
        LogRecord(body=make.any_value("pyinstrument.profile")),
        LogRecord(event_name="session.start"),
        LogRecord(attributes=make.pairs({"event.name": "other"})),
    ]

    result = translated(make.logs(*lines, make.profile_log()))

    assert (result.received, len(result.batch.profiles)) == (1, 1)


def test_the_name_of_the_event_may_be_an_attribute(make):
    log = make.profile_log()
    log.event_name = ""
    log.attributes.extend(make.pairs({"event.name": "pyinstrument.profile"}))

    assert len(translated(make.logs(log)).batch.profiles) == 1


def test_the_same_profile_twice_in_one_request_is_taken_once(make):
    log = make.profile_log()

    result = translated(make.logs(log, log))

    assert (len(result.batch.profiles), result.outcome.rejected_count) == (1, 0)


def test_the_time_of_observation_stands_in_for_a_missing_one(make):
    log = make.profile_log()
    log.observed_time_unix_nano, log.time_unix_nano = log.time_unix_nano, 0

    assert len(translated(make.logs(log)).batch.profiles) == 1


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("trace_id", b"five5", "invalid_trace_id"),
        ("trace_id", bytes(16), "invalid_trace_id"),
        ("span_id", b"", "invalid_span_id"),
        ("time_unix_nano", 0, "missing_time"),
        ("time_unix_nano", 2**63, "time_out_of_range"),
    ],
)
def test_what_names_no_span_or_time_is_rejected_by_name(make, field, value, reason):
    log = make.profile_log()
    setattr(log, field, value)

    result = translated(make.logs(log, make.profile_log()))

    assert dict(result.outcome.rejected) == {reason: 1}
    assert result.outcome.message() == f"log records rejected: {reason} 1"
    assert len(result.batch.profiles) == 1


def test_profiles_of_a_refused_sender_are_counted(make):
    result = translated(
        make.logs(make.profile_log(), make.profile_log()), Destination(refusal="unknown_project_key")
    )

    assert dict(result.outcome.rejected) == {"unknown_project_key": 2}
    assert result.received == 2


values = st.builds(AnyValue, string_value=st.text(max_size=5)) | st.builds(
    AnyValue, bytes_value=st.binary(max_size=5)
)
names = st.sampled_from(
    ["pyinstrument.format", "pyinstrument.payload", "pyinstrument.encoding", "event.name"]
)
records = st.builds(
    LogRecord,
    event_name=st.sampled_from(["", "pyinstrument.profile"]),
    trace_id=st.binary(min_size=15, max_size=16),
    span_id=st.binary(min_size=8, max_size=8),
    time_unix_nano=st.integers(0, 2**64 - 1),
    attributes=st.lists(st.builds(KeyValue, key=names, value=values), max_size=4),
)


@given(st.lists(records, max_size=4))
def test_no_log_record_is_more_than_rejected(make_logs, logs):
    result = translated(make_logs(*logs))

    assert result.received >= result.outcome.rejected_count


@pytest.fixture(scope="module")
def make_logs():
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    def build(*logs):
        request = ExportLogsServiceRequest()
        request.resource_logs.add().scope_logs.add().log_records.extend(logs)
        return request

    return build
