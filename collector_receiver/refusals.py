"""Why a request has no success. The fronts (gRPC, HTTP) turn these into status codes, and only they do."""

from __future__ import annotations

from google.rpc.error_details_pb2 import BadRequest


class IngestRefused(Exception):
    """A request without success. `reason` names the counter; the message may go to the sender."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Undecodable(IngestRefused):
    """The bytes are no export request: sending them again is useless. gRPC INVALID_ARGUMENT, HTTP 400.

    `field` is the path of what is wrong in the request, such as `resourceSpans.scopeSpans`; "" when unknown.
    """

    def __init__(self, reason: str, message: str, *, field: str = "") -> None:
        super().__init__(reason, message)
        self.field = field


class TooLarge(IngestRefused):
    """Above the largest request, never to be repeated as it is. gRPC RESOURCE_EXHAUSTED, HTTP 413."""


class Unauthenticated(IngestRefused):
    """Missing or wrong project key, nothing was stored. gRPC UNAUTHENTICATED, HTTP 401."""


class TryAgain(IngestRefused):
    """Some may be stored, nothing is promised. gRPC UNAVAILABLE + RetryInfo, HTTP 503 + Retry-After."""

    def __init__(self, reason: str, message: str, retry_after_seconds: float) -> None:
        super().__init__(reason, message)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(TryAgain):
    """A project sent more than it may. gRPC UNAVAILABLE + RetryInfo, HTTP 429 + Retry-After."""

    def __init__(self, project_id: str, retry_after_seconds: float) -> None:
        super().__init__(
            "rate_limited", "the project sends more than its limit allows; slow down", retry_after_seconds
        )
        self.project_id = project_id


def bad_request(message: str, field: str = "") -> BadRequest:
    """The detail that OTLP wants in the status of bad data: what is wrong, and where it is known."""
    return BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=message)])
