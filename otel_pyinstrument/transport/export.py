"""What stands in for the `export` of an OTLP exporter: the same call, in parts of a size that is taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import TYPE_CHECKING, Any

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.transport.parts import split
from otel_pyinstrument.transport.signals import Signal

if TYPE_CHECKING:
    from otel_pyinstrument.transport.spool import Spool

_logger = getLogger(__name__)

_REFUSAL_SECONDS = 0.5
"""A backend that refuses one request does so at once. What takes longer has been retried, or timed out."""


_UNSENT: str = "unsent"
_TOO_LARGE: str = "too large"
_SENT: str = "sent"


class TooLarge(Exception):
    """Raised through an exporter that has encoded more than the receiver takes, before it is sent."""


class SplittingExport:
    """Calls the exporter's own `export` once for each part of a batch, on the same thread.

    What goes wrong in here never costs a batch: then it is exported as it came. Without a spool a batch
    fails as slowly as it would alone, because the parts behind one that was retried in vain are given up.
    With a spool they are kept on disk, as is everything that comes while older requests wait there.
    """

    def __init__(
        self, original: Callable[..., Any], signal: Signal, *, max_bytes: int, spool: Spool | None
    ) -> None:
        self.original = original
        self.active = True
        self.spool = spool
        self._signal = signal
        self._max_bytes = max_bytes
        self._here = threading.local()
        self.encodes_first = False
        """Whether `check_size` is told the size of each request."""
        self._reported: set[str] = set()

    def __call__(self, batch: Sequence[Any]) -> Any:
        if not self.active:
            return self.original(batch)
        if self.spool is not None:
            return self._send_or_keep(self._parts_of(batch), self.spool)
        if self.encodes_first:
            return self._send_whole(batch)
        parts = self._parts_of(batch)
        return self.original(parts[0]) if len(parts) == 1 else self._send(parts)

    def check_size(self, size_bytes: int) -> None:
        """A request of this thread has been encoded, and is sent next.

        Raises:
            TooLarge: it is to be sent in parts instead.
        """
        if getattr(self._here, "state", None) == _UNSENT:
            if size_bytes > self._max_bytes:
                self._here.state = _TOO_LARGE
                raise TooLarge(f"{size_bytes} bytes, at most {self._max_bytes} are taken")
            self._here.state = _SENT

    def _send_whole(self, batch: Sequence[Any]) -> Any:
        """Nearly every batch fits: to measure all spans before would double what profiling costs at rest."""
        answer, failure = self._signal.failure, None
        around, self._here.state = getattr(self._here, "state", None), _UNSENT
        try:
            answer = self.original(batch)
        except Exception as error:
            if came_from_signal_handler(error) or self._here.state == _SENT:
                raise
            failure = error
        finally:
            state, self._here.state = self._here.state, around
        # Others may stand around the exporter, and make of what it raises whatever they like.
        if state == _SENT or (state == _UNSENT and answer is not self._signal.failure):
            return answer
        parts = self._parts_of(batch)
        if state == _TOO_LARGE or parts[0] is not batch:
            return self._send(parts)
        if failure is not None:
            raise failure
        return answer

    def _parts_of(self, batch: Sequence[Any]) -> list[Sequence[Any]]:
        try:
            return split(
                batch,
                max_bytes=self._max_bytes,
                size_of=self._signal.size_of,
                without_profile=self._signal.without_payload,
            )
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._report("splitting", error)
            return [batch]

    def _send(self, parts: list[Sequence[Any]]) -> Any:
        answer, failure = self._signal.success, None
        for position, part in enumerate(parts):
            begun = time.monotonic()
            try:
                sent = self.original(part)
            except Exception as error:
                if came_from_signal_handler(error):
                    raise
                sent, failure = self._signal.failure, error
            if sent is not self._signal.failure:
                continue
            answer = self._signal.failure
            rest = sum(map(len, parts[position + 1 :]))
            if rest and time.monotonic() - begun > _REFUSAL_SECONDS:
                _logger.warning("%d spans or log records are lost: the backend does not answer", rest)
                break
        if failure is not None:
            raise failure
        return answer

    def _send_or_keep(self, parts: list[Sequence[Any]], spool: Spool) -> Any:
        answer, failure = self._signal.success, None
        for part in parts:
            if self._waits(spool) and self._keep(part, spool):
                continue
            try:
                sent = self.original(part)
            except Exception as error:
                if came_from_signal_handler(error):
                    raise
                sent, failure = self._signal.failure, error
            if sent is self._signal.failure and not self._keep(part, spool):
                answer = self._signal.failure
        if failure is not None:
            raise failure
        return answer

    def _waits(self, spool: Spool) -> bool:
        try:
            return spool.waits()
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._report("looking into the spool", error)
            return False

    def _keep(self, part: Sequence[Any], spool: Spool) -> bool:
        try:
            return spool.put(self._signal.encode(part))
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._report("writing to the spool", error)
            return False

    def _report(self, what: str, error: Exception) -> None:
        if what not in self._reported:
            self._reported.add(what)
            _logger.warning("Spans are exported as without profiling: %s failed", what, exc_info=error)
