"""Profiles that travel as log records (docs/wire-format.md): OTLP logs requests to what the store keeps.

All other log records are accepted and not stored. Pure, like `collector_receiver.translation`.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs

from collector_receiver.outcome import Outcome, log_failure
from collector_receiver.profile_event import (
    EVENT_NAME,
    BrokenProfile,
    DecodeBudget,
    TooCostlyHere,
    read_profile,
)
from collector_receiver.translation import Destination, Translated
from collector_receiver.validation import MAX_TIME_UNIX_NANO, id_refusal, utc
from profile_store.model import IncomingBatch, IncomingProfile

# How an event's name travelled before log records had a field for it, and still does through old Collectors.
EVENT_NAME_ATTRIBUTE = "event.name"

UNREADABLE_LOG_RECORD = "unreadable_log_record"


def only_profiles(request: ExportLogsServiceRequest) -> ExportLogsServiceRequest:
    """The profiles of `request` with their resources. What is left out here costs nothing further.

    Empty records stay, to be refused: the readers of requests put them in the place of what they cannot read.
    """
    kept = ExportLogsServiceRequest()
    for resource_logs in request.resource_logs:
        profiles = [
            record
            for scope_logs in resource_logs.scope_logs
            for record in scope_logs.log_records
            if _is_profile(record) or not record.ByteSize()
        ]
        if profiles:
            target = kept.resource_logs.add()
            target.resource.CopyFrom(resource_logs.resource)
            target.scope_logs.add().log_records.extend(profiles)
    return kept


def translate(
    request: ExportLogsServiceRequest,
    destinations: Sequence[Destination],
    decode_budget: DecodeBudget | None = None,
) -> Translated:
    """The profiles of a request that `only_profiles` has left. `destinations`: one per `resource_logs`.

    Never raises for what a record holds: one that cannot be stored is counted as rejected and left out.

    Raises:
        TooCostlyHere: by the decode budget.
    """
    outcome, budget = Outcome(item="log records"), decode_budget or DecodeBudget()
    profiles: dict[tuple[str, bytes, bytes], IncomingProfile] = {}
    received = 0
    for resource_logs, destination in zip(request.resource_logs, destinations, strict=True):
        records = _records(resource_logs)
        received += len(records)
        if destination.refusal:
            outcome.reject(destination.refusal, len(records))
            continue
        for record in records:
            identity = (destination.project_id, record.trace_id, record.span_id)
            if identity in profiles:
                continue
            try:
                profiles[identity] = _profile(record, destination.project_id, budget)
            except BrokenProfile as broken:
                outcome.reject(broken.reason)
            except TooCostlyHere:
                raise
            except Exception as error:
                log_failure(outcome, "a profile", error)
    return Translated(IncomingBatch(profiles=list(profiles.values())), outcome, received)


def _profile(record: LogRecord, project_id: str, budget: DecodeBudget) -> IncomingProfile:
    if reason := id_refusal(record.trace_id, record.span_id):
        raise BrokenProfile(reason if record.ByteSize() else UNREADABLE_LOG_RECORD)
    time_unix_nano = record.time_unix_nano or record.observed_time_unix_nano
    if not time_unix_nano:
        raise BrokenProfile("missing_time")
    if time_unix_nano > MAX_TIME_UNIX_NANO:
        raise BrokenProfile("time_out_of_range")
    received = read_profile(record.attributes, budget)
    return IncomingProfile(
        project_id=project_id,
        trace_id=record.trace_id,
        span_id=record.span_id,
        timestamp=utc(time_unix_nano),
        payload=received.payload,
        profile=received.facts,
        hot_functions=received.hot_functions,
        facts=received.request_facts,
    )


def _records(resource_logs: ResourceLogs) -> list[LogRecord]:
    return [record for scope_logs in resource_logs.scope_logs for record in scope_logs.log_records]


def _is_profile(record: LogRecord) -> bool:
    if record.event_name:
        return record.event_name == EVENT_NAME
    return any(
        pair.key == EVENT_NAME_ATTRIBUTE and pair.value.string_value == EVENT_NAME
        for pair in record.attributes
    )
