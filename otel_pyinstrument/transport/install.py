"""Takes over the `export` of a provider's OTLP exporters, and gives it back."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.private_names import processors_of
from otel_pyinstrument.settings import Settings, variable_of
from otel_pyinstrument.transport import private_names
from otel_pyinstrument.transport.export import SplittingExport
from otel_pyinstrument.transport.losses import Losses
from otel_pyinstrument.transport.private_names import ExporterKind
from otel_pyinstrument.transport.signals import signal_named

if TYPE_CHECKING:
    from otel_pyinstrument.transport.spool import Spool

_logger = getLogger(__name__)

DRAIN_SECONDS = 2.0
"""How long the shutdown of an exporter waits for a backend that is taking what was on disk."""


class Transport:
    """What the exporters of one provider go through while profiling is on.

    An exporter stays the object it is; one of its attributes hides the method of its class. So whoever holds
    it (processors that are there already or come later, a test, another wrapper) exports through here.
    """

    def __init__(self, provider: TracerProvider, settings: Settings) -> None:
        self._provider = provider
        self._settings = settings
        self._losses = Losses()
        self._restores: list[Callable[[], None]] = []
        self._warned: set[str] = set()

    def install(self) -> None:
        """Take over every exporter that is there, and those that come."""
        for processor in processors_of(self._provider):
            self.take_over(processor)
        original = self._provider.add_span_processor

        def add_span_processor(span_processor: SpanProcessor) -> None:
            original(span_processor)
            self.take_over(span_processor)

        self._hide(self._provider, "add_span_processor", add_span_processor)

    def take_over(self, processor: object) -> None:
        """Have the exporter of a span or log record processor export through here. Never raises."""
        try:
            exporter = private_names.exporter_of(processor)
            kind = private_names.exporter_kind(exporter)
            if private_names.hides_its_exporter(processor):
                self._warn_of_whole_batches("an exporter of this version is not known")
            if kind is not None and not isinstance(_attribute_of(exporter, "export"), SplittingExport):
                self._take_over(exporter, kind)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._warn_of_whole_batches(f"{type(error).__name__}: {error}")

    def take_over_logs(self, provider: object) -> None:
        """The same for all log record processors of a logger provider. Never raises."""
        try:
            processors = private_names.log_processors_of(provider)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._warn_of_whole_batches(f"{type(error).__name__}: {error}")
            return
        for processor in processors:
            self.take_over(processor)

    def uninstall(self) -> None:
        """Give everything back. What waits on disk stays there. Takes a second at most."""
        restores, self._restores = self._restores, []
        for restore in reversed(restores):
            try:
                restore()
            except Exception as error:
                if came_from_signal_handler(error):
                    raise
                _logger.debug("Restoring an exporter failed", exc_info=True)

    def _take_over(self, exporter: Any, kind: ExporterKind) -> None:
        limit = private_names.own_request_limit(exporter)
        max_bytes = self._settings.max_request_bytes
        part_bytes = max_bytes if limit is None else min(limit, max_bytes)
        signal = signal_named(kind.signal)
        spool = None
        if self._settings.spool_dir:
            spool = self._spool_for(exporter, kind, signal.grpc_method, part_bytes)
        export = SplittingExport(exporter.export, signal, max_bytes=part_bytes, spool=spool)

        def deactivate() -> None:
            # Somebody may have wrapped ours meanwhile and keep it: then it only passes on.
            export.active = False
            if spool is not None:
                spool.stop()

        self._restores.append(deactivate)
        self._hide(exporter, "export", export)
        step = private_names.step_after_encoding(exporter, kind.protocol, export.check_size)
        # An exporter with a limit below ours would say that it drops what is yet sent in parts.
        if step is not None and (limit is None or limit > max_bytes):
            self._hide(*step)
            export.encodes_first = True
        if spool is not None:
            self._hide(exporter, "shutdown", _draining(exporter.shutdown, spool))

    def _spool_for(self, exporter: Any, kind: ExporterKind, grpc_method: str, max_bytes: int) -> Spool | None:
        # Most applications have no spool: they do not pay for loading it.
        from otel_pyinstrument.transport.senders import sender_for
        from otel_pyinstrument.transport.spool import Spool
        from otel_pyinstrument.transport.spool_directory import SpoolDirectory

        open_sender = sender_for(exporter, kind.protocol, grpc_method)
        if open_sender is None:
            self._warn_without_spool("this version of the exporter is not known to it")
            return None
        try:
            directory = SpoolDirectory(
                Path(self._settings.spool_dir),
                self._destination(exporter, kind),
                max_bytes=self._settings.spool_max_bytes,
                max_age_seconds=self._settings.spool_max_age,
                losses=self._losses,
            )
            directory.create()
        except (AttributeError, OSError) as error:
            if came_from_signal_handler(error):
                raise
            self._warn_without_spool(f"{error}; name a directory that the service's user may write to")
            return None
        return Spool(
            directory,
            open_sender,
            losses=self._losses,
            max_bytes=max_bytes,
            ended=lambda: private_names.is_shut_down(exporter),
        )

    def _warn_of_whole_batches(self, reason: str) -> None:
        self._warn("Profiles may be lost on their way: batches are not split by size, because %s", reason)

    def _warn_without_spool(self, reason: str) -> None:
        given = f"{variable_of('spool_dir')}={self._settings.spool_dir}"
        self._warn(f"{given}: the spool is not used: %s", reason)

    def _warn(self, message: str, reason: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _logger.warning(message, reason)

    def _destination(self, exporter: Any, kind: ExporterKind) -> str:
        """Names what may be replayed by whom. No headers: what is secret has no place on disk."""
        import hashlib

        resource = self._provider.resource.attributes
        parts = [
            str(os.getuid()) if hasattr(os, "getuid") else "",
            kind.protocol,
            kind.signal,
            private_names.endpoint_of(exporter),
            str(resource.get("service.namespace", "")),
            str(resource.get("service.name", "")),
        ]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]

    def _hide(self, owner: Any, name: str, replacement: Any) -> None:
        """Hide a method of `owner` behind an attribute of the same name, until `uninstall`."""
        before = _attribute_of(owner, name)
        setattr(owner, name, replacement)

        def restore() -> None:
            if _attribute_of(owner, name) is not replacement:
                return
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._restores.append(restore)


def _attribute_of(owner: object, name: str) -> object:
    """What `owner` itself has under `name`; None when only its class has something."""
    own: dict[str, object] = dict(vars(owner))
    return own.get(name)


def _draining(original: Callable[..., Any], spool: Spool) -> Callable[..., Any]:
    """`shutdown` of an exporter that lets a short-lived process deliver what earlier ones have left."""

    def shutdown(*arguments: Any, **named: Any) -> Any:
        try:
            spool.drain(DRAIN_SECONDS)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            _logger.debug("Draining the spool failed", exc_info=True)
        return original(*arguments, **named)

    # The SDK looks at the parameters to find out whether it may pass a timeout.
    setattr(shutdown, "__signature__", inspect.signature(original))  # noqa: B010 - for pyright
    return shutdown
