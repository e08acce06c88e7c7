"""The OpenTelemetry attribute names that the receiver reads, current name first, then the one it replaced.

Source: semantic conventions 1.44, "HTTP spans", "Resource: service, deployment" and the HTTP migration guide.
Python's contrib instrumentations still send the old names unless OTEL_SEMCONV_STABILITY_OPT_IN is set.
"""

from __future__ import annotations

from profile_store.model import Attributes, AttributeValue

SERVICE_NAME = ("service.name",)
SERVICE_VERSION = ("service.version",)
ENVIRONMENT = ("deployment.environment.name", "deployment.environment")

HTTP_METHOD = ("http.request.method", "http.method")
HTTP_ROUTE = ("http.route",)
HTTP_STATUS = ("http.response.status_code", "http.status_code")
RPC_SYSTEM = ("rpc.system.name", "rpc.system")
RPC_STATUS = ("rpc.response.status_code", "rpc.grpc.status_code")
URL_PATH = ("url.path",)
URL_TARGET = ("http.target",)
URL_FULL = ("url.full", "http.url")

PROJECT_KEY = "project.key"

# "Mapping to non-OTLP formats", section "Dropped attributes count".
DROPPED_ATTRIBUTES = "otel.dropped_attributes_count"
DROPPED_EVENTS = "otel.dropped_events_count"

UNKNOWN_SERVICE = "unknown_service"


def first(attributes: Attributes, names: tuple[str, ...]) -> AttributeValue:
    """The value of the first of `names` that is present, else None."""
    for name in names:
        value = attributes.get(name)
        if value is not None:
            return value
    return None


def first_text(attributes: Attributes, names: tuple[str, ...], *, limit: int) -> str:
    """The same as one printable line of at most `limit` characters; "" when absent or not text."""
    value = first(attributes, names)
    return one_line(value, limit=limit) if isinstance(value, str) else ""


def one_line(text: str, *, limit: int) -> str:
    """`text` without characters that break a log line or a page, cut to `limit` characters."""
    text = text[: 2 * limit]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return text.strip()[:limit]
