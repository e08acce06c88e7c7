"""What went wrong during a request."""

from __future__ import annotations

from dataclasses import dataclass

from profile_store.model import RecordDetail
from profile_store.request_facts.attribute_access import text

# Semantic conventions, "Recording exceptions".
_EXCEPTION_EVENT = "exception"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestError:
    """An exception that the request's span recorded."""

    type: str
    message: str
    stacktrace: str
    time_unix_nano: int


def request_errors(detail: RecordDetail) -> list[RequestError]:
    """Recorded exceptions in time order; without any, `error.type` of a failed request if it has one."""
    record = detail.record
    errors = [
        RequestError(
            type=text(event.attributes, "exception.type"),
            message=text(event.attributes, "exception.message"),
            stacktrace=text(event.attributes, "exception.stacktrace"),
            time_unix_nano=event.time_unix_nano,
        )
        for event in record.events
        if event.name == _EXCEPTION_EVENT
    ]
    if not errors and record.failed and (error_type := text(record.attributes, "error.type")):
        end = record.start_time_unix_nano + round(record.duration * 1e9)
        errors = [RequestError(type=error_type, message="", stacktrace="", time_unix_nano=end)]
    return sorted(errors, key=lambda error: error.time_unix_nano)
