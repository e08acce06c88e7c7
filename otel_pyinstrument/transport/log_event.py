"""Profiles as log records: OpenTelemetry's successor of span events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from logging import getLogger
from typing import Any

from opentelemetry import _logs
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import set_span_in_context

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.profile_event import EVENT_NAME, ProfileEvent
from otel_pyinstrument.transport import private_names
from otel_pyinstrument.version import __version__

_logger = getLogger(__name__)


class LazyAttributes(MutableMapping[str, Any]):
    """The attributes of a profile event, encoded when somebody looks into them: the export thread.

    Mutable, because log record processors may add to the attributes of a record.
    """

    def __init__(self, event: ProfileEvent) -> None:
        self._event = event
        self._values: dict[str, Any] | None = None

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._read()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, Any]:
        if self._values is None:
            self._values = dict(self._event.attributes)
        return self._values


class LogEvents:
    """Hands profiles to the global logger provider. On the request's thread."""

    def __init__(self, before_emit: Callable[[object], None]) -> None:
        """`before_emit` sees the logger provider each time: its exporters may be new."""
        self._before_emit = before_emit
        self._warned = False

    def emit(self, event: ProfileEvent, span: Span) -> bool:
        """False, with one warning in all, when the profile has to travel as a span event."""
        try:
            return self._emit(event, span)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._warn("the logger provider failed", exc_info=True)
            return False

    def _emit(self, event: ProfileEvent, span: Span) -> bool:
        provider = _logs.get_logger_provider()
        logger = provider.get_logger("otel_pyinstrument", __version__)
        record = LogRecord(
            timestamp=event.timestamp,
            observed_timestamp=event.timestamp,
            context=set_span_in_context(span),
            severity_number=SeverityNumber.INFO,
            attributes=LazyAttributes(event),
            event_name=EVENT_NAME,
        )
        if not private_names.takes_log_records(provider, logger, record):
            self._warn(
                "no logger provider with an exporter is set; set OTEL_LOGS_EXPORTER=otlp, or one in code"
            )
            return False
        self._before_emit(provider)
        event.write_text()
        emitted = private_names.with_lazy_attributes(logger, record)
        if emitted is record and _would_be_cut(event):
            self._warn(
                "limits such as OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT would cut them as log records of this "
                "logger provider"
            )
            return False
        logger.emit(emitted)
        return True

    def _warn(self, reason: str, *, exc_info: bool = False) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning(
                "OTEL_PYINSTRUMENT_EVENT=log: profiles travel as span events, because %s",
                reason,
                exc_info=exc_info,
            )


def _would_be_cut(event: ProfileEvent) -> bool:
    """Whether the SDK would shorten or leave out some of the attributes in a plain record."""
    from opentelemetry.sdk._logs import LogRecordLimits

    limits: Any = LogRecordLimits()
    # SDKs before 1.45 know no limits for log records alone.
    count = getattr(limits, "max_log_record_attributes", limits.max_attributes)
    length = getattr(limits, "max_log_record_attribute_length", limits.max_attribute_length)
    if count is None and length is None:
        return False  # without encoding the tree
    attributes = event.attributes
    texts = (value for value in attributes.values() if isinstance(value, str))
    return (count is not None and len(attributes) > count) or (
        length is not None and any(len(text) > length for text in texts)
    )
