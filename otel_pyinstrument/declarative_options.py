"""What OpenTelemetry's own configuration file may say under `instrumentation/development`."""

from __future__ import annotations

from dataclasses import make_dataclass
from logging import getLogger
from typing import Any

from otel_pyinstrument.settings import Settings

_logger = getLogger(__name__)
_NAMES = Settings._fields


def _take(self: object, /, **options: Any) -> None:
    for name in _NAMES:
        setattr(self, name, options.pop(name, None))
    if options:
        # Raising would lose the known options too.
        _logger.warning("Unknown options %s; known are %s", ", ".join(options), ", ".join(_NAMES))


# All are optional, because opentelemetry-configuration hands on what is not None: the rest is left to the
# other sources. The values are checked where all options are, in `read_settings`.
DeclarativeOptions = make_dataclass(
    "DeclarativeOptions",
    [(name, Any, None) for name in _NAMES],
    init=False,
    namespace={"__init__": _take, "__doc__": "What the file may hold; named like the fields of `Settings`."},
)
