"""What the libraries log while a check runs: often the only place where they say what is wrong."""

from __future__ import annotations

import logging
from types import TracebackType

_LOGGERS = ("opentelemetry", "otel_pyinstrument")


class CapturedLog(logging.Handler):
    """Keeps warnings and errors of OpenTelemetry and of this package, and keeps them off stderr.

    A context manager. Records may come from any thread.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []
        self._seen: set[str] = set()

    def __enter__(self) -> CapturedLog:
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.removeHandler(self)
            logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text = f"{text}: {type(error).__name__}: {error}"
        if text not in self._seen:
            self._seen.add(text)
            self._messages.append(text)

    def take(self) -> list[str]:
        """The messages since the last call, each only the first time."""
        taken, self._messages = self._messages, []
        return taken
