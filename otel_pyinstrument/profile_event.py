"""The span event that carries a profile, encoded by whoever reads it first: normally the export thread."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from opentelemetry.sdk.trace import Event, EventBase

from otel_pyinstrument import native
from otel_pyinstrument.call_tree import FORMAT_VERSION, encode, summary
from otel_pyinstrument.frames import current_describer
from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.recording import Recording

EVENT_NAME: Final = "pyinstrument.profile"

_ERROR_CHARACTERS = 200
_encoding_lock = native.RLock()


def _renew_lock() -> None:
    global _encoding_lock
    _encoding_lock = native.RLock()


if hasattr(os, "register_at_fork"):
    # The export thread of the parent may have held it, and does not exist in the child.
    os.register_at_fork(after_in_child=_renew_lock)


def _never() -> bool:
    return False


class ProfileEvent(EventBase):
    """A lazy event: `attributes` builds and encodes the tree once, then keeps the result and frees the rest.

    Reading never raises: an exception would make exporters lose the whole batch, other spans included.
    Exporters read it on their own thread, again at every retry; a processor may read it on any thread.
    """

    dropped_attributes = 0
    """`EventBase` does not have it, but the OTLP encoder reads it from every event."""

    def __init__(
        self,
        recording: Recording,
        *,
        reason: str,
        interval_seconds: float,
        timestamp: int | None,
        payload_as_bytes: Callable[[], bool],
        request_facts: Callable[[], str] | None = None,
        report: Callable[[str, Exception], None],
        cpu_cost_seconds: float = 0.0,
        charge_encoding: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(EVENT_NAME, timestamp)
        self._recording: Recording | None = recording
        self._payload_as_bytes = payload_as_bytes
        self._request_facts = request_facts
        self._report = report
        self._charge_encoding = charge_encoding
        facts = recording.facts
        self._facts: dict[str, Any] = {
            "pyinstrument.format": FORMAT_VERSION,
            "pyinstrument.interval": interval_seconds,
            "pyinstrument.duration": facts.duration_seconds,
            "pyinstrument.cpu_time": facts.cpu_seconds,
            "pyinstrument.cpu_cost": cpu_cost_seconds,
            "pyinstrument.sample_count": facts.sample_count,
            "pyinstrument.reason": reason,
            "pyinstrument.truncated": facts.truncated,
            "pyinstrument.interrupted": facts.interrupted,
        }
        self._attributes: Mapping[str, Any] | None = None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """As in docs/wire-format.md; `pyinstrument.error` stands for the payload when encoding failed."""
        if self._attributes is None:
            with _encoding_lock:
                if self._attributes is None:
                    start = time.thread_time()
                    self._attributes = MappingProxyType(
                        self._facts | self._written_facts() | self._encoded_or_error()
                    )
                    self._recording = self._request_facts = None
                    self._charge(time.thread_time() - start)
        return self._attributes

    def write_text(self) -> None:
        """Write the payload as text, which everybody takes, whatever the exporters of spans take."""
        self._payload_as_bytes = _never

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are plain events, as some exporters hand spans to other processes."""
        return Event, (self.name, dict(self.attributes), self.timestamp)

    def _written_facts(self) -> dict[str, Any]:
        if self._request_facts is None:
            return {}
        try:
            return {"pyinstrument.facts": self._request_facts()}
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._report("writing the request's facts", error)
            return {}

    def _charge(self, seconds: float) -> None:
        if self._charge_encoding is None:
            return
        try:
            self._charge_encoding(seconds)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._report("charging the encoding", error)

    def _encoded_or_error(self) -> dict[str, Any]:
        try:
            return self._encoded()
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._report("encoding", error)
            return {"pyinstrument.error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]}

    def _encoded(self) -> dict[str, Any]:
        if self._recording is None:
            raise AssertionError("a recording is freed only once its attributes exist")
        tree = self._recording.build(current_describer())
        encoded = encode(tree)
        as_bytes = self._payload_as_bytes()
        return {
            "pyinstrument.node_count": encoded.node_count,
            "pyinstrument.summary": summary(tree),
            "pyinstrument.encoding": "zlib+json" if as_bytes else "zlib+json+base64",
            "pyinstrument.payload": (
                encoded.payload if as_bytes else base64.b64encode(encoded.payload).decode("ascii")
            ),
        }
