"""The span of an HTTP request, for applications whose framework no instrumentation knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

from opentelemetry import propagate, trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from otel_pyinstrument import installed
from otel_pyinstrument.facts.http import masked_query
from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.http_methods import METHODS, OTHER_METHOD

_logger = getLogger(__name__)

_Given = TypeVar("_Given")

_FIRST_SERVER_ERROR = 500
_MAX_CHARACTERS = 2_048


class ServerSpan:
    """A started span of kind SERVER. Its methods never raise; `end` may be called more than once."""

    def __init__(self, span: Span, method: str) -> None:
        self.span = span
        self._method = method
        self._ended = False

    def status(self, code: int) -> None:
        """The status that is being answered."""
        self.span.set_attribute("http.response.status_code", code)
        if code >= _FIRST_SERVER_ERROR:
            self.span.set_attribute("error.type", str(code))
            self.span.set_status(Status(StatusCode.ERROR))

    def route(self, template: str) -> None:
        """The framework's own name for the endpoint."""
        self.span.set_attribute("http.route", template)
        self.span.update_name(f"{self._method} {template}")

    def end(self, error: BaseException | None = None) -> None:
        """End the span; with the exception that came out of the application, if one did."""
        if self._ended:
            return
        self._ended = True
        try:
            if isinstance(error, Exception):
                self._fail(error)
        finally:
            self.span.end()

    def _fail(self, error: Exception) -> None:
        self.span.set_attribute("error.type", type(error).__qualname__)
        try:
            text = f"{type(error).__name__}: {error}"
            self.span.record_exception(error)
        except Exception as failure:
            if came_from_signal_handler(failure):
                raise
            text = type(error).__name__  # its `__str__` fails
        self.span.set_status(Status(StatusCode.ERROR, text))


class HTTPRequest(NamedTuple):
    """`headers` have names in lower case. `attributes` without a value are left out."""

    method: str
    query: str
    headers: Mapping[str, str]
    attributes: Mapping[str, AttributeValue | None]


def start_server_span(read: Callable[[_Given], HTTPRequest], given: _Given) -> ServerSpan | None:
    """A started span with the caller's trace as parent; None inside another span, or when tracing is off.

    `read` tells the request from what the server gives. Whatever that is, nothing is raised.
    """
    try:
        if trace.get_current_span().get_span_context().is_valid or not is_instrumentation_enabled():
            return None
        method, query, headers, attributes = read(given)
        known = method if method in METHODS else OTHER_METHOD
        values: dict[str, AttributeValue] = {"http.request.method": known}
        if known is not method:
            values["http.request.method_original"] = method[:_MAX_CHARACTERS]
        if query:
            values["url.query"] = _shown(query, installed.mask)
        if "user-agent" in headers:
            values["user_agent.original"] = headers["user-agent"][:_MAX_CHARACTERS]
        values |= {name: _cut(value) for name, value in attributes.items() if value not in (None, "")}
        values |= _address(headers.get("host", ""))
        name = "HTTP" if known is OTHER_METHOD else known
        span = installed.tracer().start_span(
            name, propagate.extract(headers), SpanKind.SERVER, attributes=values
        )
        return ServerSpan(span, name)
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        _logger.warning("A request is not traced: its span could not be started", exc_info=True)
        return None


def _address(host: str) -> dict[str, AttributeValue]:
    try:
        parts = urlsplit(f"//{host[:_MAX_CHARACTERS]}")
        port = parts.port
    except ValueError as error:
        if came_from_signal_handler(error):
            raise
        return {}
    if not parts.hostname:
        return {}
    address: dict[str, AttributeValue] = {"server.address": parts.hostname}
    if port is not None:
        address["server.port"] = port
    return address


def _shown(query: str, mask: Sequence[str]) -> str:
    return urlencode(masked_query(query, mask), safe="*/:,")


def _cut(value: Any) -> AttributeValue:
    return value[:_MAX_CHARACTERS] if isinstance(value, str) else value
