"""All of the transport for one provider, as the instrumentor switches it on and off."""

from __future__ import annotations

from logging import getLogger
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import TracerProvider

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.transport.install import Transport
from otel_pyinstrument.transport.uvicorn_flush import UvicornFlush

if TYPE_CHECKING:
    from otel_pyinstrument.transport.log_event import LogEvents

_logger = getLogger(__name__)

_FLUSH_SECONDS = 5.0
_SPOOLING_FLUSH_SECONDS = 12.0
"""The default timeout of an export, 10 seconds, and the time to put what failed on disk."""


class Delivery:
    """Nothing of it raises: an application without it exports as it always did."""

    def __init__(self, provider: TracerProvider, settings: Settings) -> None:
        self._provider = provider
        self._transport = Transport(provider, settings)
        self._flush = UvicornFlush(
            self._flush_all,
            limit_seconds=_SPOOLING_FLUSH_SECONDS if settings.spool_dir else _FLUSH_SECONDS,
        )
        self.log_events = self._open_log_events() if settings.event == "log" else None
        """Where profiles go instead of to their spans; None when they stay there."""

    def install(self) -> None:
        for install in (self._transport.install, self._flush.install):
            try:
                install()
            except Exception as error:
                if came_from_signal_handler(error):
                    raise
                _logger.warning("Profiles may be lost on their way: %s failed", install, exc_info=True)

    def uninstall(self) -> None:
        for uninstall in (self._flush.uninstall, self._transport.uninstall):
            try:
                uninstall()
            except Exception as error:
                if came_from_signal_handler(error):
                    raise
                _logger.debug("%s failed", uninstall, exc_info=True)

    def _open_log_events(self) -> LogEvents | None:
        try:
            # OpenTelemetry's logs are still experimental: others do not depend on where they are.
            from otel_pyinstrument.transport.log_event import LogEvents
        except ImportError as error:
            _logger.warning(
                "OTEL_PYINSTRUMENT_EVENT=log: profiles travel as span events, because of %s", error
            )
            return None
        return LogEvents(self._take_over_logs)

    def _take_over_logs(self, provider: object) -> None:
        self._transport.take_over_logs(provider)

    def _flush_all(self) -> None:
        if self.log_events is not None:
            from opentelemetry import _logs

            provider = _logs.get_logger_provider()
            force_flush = getattr(provider, "force_flush", None)
            if force_flush is not None:
                force_flush()
        self._provider.force_flush()
