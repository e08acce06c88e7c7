"""What the user may decide: read once, from arguments and the environment."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from logging import getLogger
from typing import Any, cast

from otel_pyinstrument import environment_variables

_logger = getLogger(__name__)

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Settings:
    """Fields are named like the variables: `interval` is `OTEL_PYINSTRUMENT_INTERVAL` and so on."""

    enabled: bool = True
    rate: float = 0.02
    """Share of requests, 0 to 1."""
    max_concurrent: int = 4
    """Requests profiled at the same moment in one process."""
    interval: float = 10.0
    """Milliseconds between samples."""
    max_duration: float = 30.0
    """Seconds of one request that are sampled."""
    mask: tuple[str, ...] = ()
    """Parts of names, in lower case, of headers and parameters whose values are hidden besides secrets."""
    event: str = "span"
    """`span` or `log`: how a profile travels."""
    max_request_bytes: int = 3_670_016
    """3.5 MiB: receivers take 4 MiB by default, and the exporter adds a little."""
    spool_dir: str = ""
    """Empty: no spool."""
    spool_max_bytes: int = 104_857_600
    spool_max_age: float = 86_400.0
    """Seconds."""

    @property
    def interval_seconds(self) -> float:
        return self.interval / 1000


def read_settings(environ: Mapping[str, str], arguments: Mapping[str, Any]) -> Settings:
    """Settings from `arguments` (named like the fields), else from `environ`, else the defaults.

    Never raises: a bad value is logged once with its name and the default that is used instead.
    An argument that is None and a variable that is empty count as not given.
    """
    defaults = Settings()
    values: dict[str, Any] = {}
    for name, read in _READERS.items():
        variable = variable_of(name)
        default = getattr(defaults, name)
        for source, given in ((f"{name}=", arguments.get(name)), (f"{variable}=", environ.get(variable))):
            if given is None or (isinstance(given, str) and not given.strip()):
                continue
            try:
                values[name] = read(given)
            except (TypeError, ValueError, OverflowError) as error:
                shown = str(given)[:_SHOWN_CHARACTERS]
                _logger.warning("%s%s: %s; using the default %s", source, shown, error, default)
            break
    unknown = sorted(arguments.keys() - _READERS.keys())
    if unknown:
        _logger.warning("Unknown options %s; known are %s", ", ".join(unknown), ", ".join(_READERS))
    return Settings(**values)


def variable_of(name: str) -> str:
    """The environment variable of the field `name`."""
    return getattr(environment_variables, f"OTEL_PYINSTRUMENT_{name.upper()}")


def _boolean(given: Any) -> bool:
    text = str(given).strip().lower()
    if text in {"true", "1", "yes", "on"}:
        return True
    if text in {"false", "0", "no", "off"}:
        return False
    raise ValueError("expected true or false")


def _number(lowest: float, highest: float) -> Callable[[Any], float]:
    def read(given: Any) -> float:
        try:
            number = float(given)
        except (TypeError, ValueError):
            raise ValueError("expected a number") from None
        if math.isnan(number) or not lowest <= number <= highest:
            raise ValueError(f"expected a number from {lowest:g} to {highest:g}")
        return number

    return read


def _whole_number(lowest: int, highest: int) -> Callable[[Any], int]:
    def read(given: Any) -> int:
        try:
            number = int(given)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("expected a whole number") from None
        if not lowest <= number <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return number

    return read


def _names(given: Any) -> tuple[str, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):  # pyright: ignore[reportUnknownVariableType] - anything
        raise ValueError("expected names separated by commas")
    return tuple(name for part in cast("list[str]", parts) if (name := part.strip().lower()))


def _one_of(*known: str) -> Callable[[Any], str]:
    def read(given: Any) -> str:
        text = str(given).strip().lower()
        if text not in known:
            raise ValueError(f"expected {' or '.join(known)}")
        return text

    return read


def _path(given: Any) -> str:
    return os.path.abspath(os.path.expanduser(str(given).strip()))


_READERS: dict[str, Callable[[Any], Any]] = {
    "enabled": _boolean,
    "rate": _number(0, 1),
    "max_concurrent": _whole_number(0, 1000),
    "interval": _number(1, 1000),
    "max_duration": _number(0.1, 3600),
    "mask": _names,
    "event": _one_of("span", "log"),
    "max_request_bytes": _whole_number(65_536, 1 << 30),
    "spool_dir": _path,
    "spool_max_bytes": _whole_number(1 << 20, 1 << 50),
    "spool_max_age": _number(1, 365 * 86_400),
}

FIELD_NAMES = tuple(field.name for field in fields(Settings))
