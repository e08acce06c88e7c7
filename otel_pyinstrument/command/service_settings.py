"""The settings as a service under `opentelemetry-instrument` would find them here."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from logging import NullHandler, getLogger
from typing import Any

from otel_pyinstrument.declarative_options import DeclarativeOptions
from otel_pyinstrument.settings import FIELD_NAMES, Resolved, resolve_settings

CONFIG_FILE_VARIABLE = "OTEL_CONFIG_FILE"
"""Names OpenTelemetry's own configuration file."""
DISABLED_VARIABLE = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
ENTRY_POINT = "pyinstrument"

_QUOTES_NAMES_ONLY = frozenset({"additionalProperties", "required"})

_logger = getLogger(__name__)


class _Unusable(Exception):
    """The message says why the file sets nothing up, and never quotes its values, which may be secret."""


def resolve_service_settings() -> Resolved:
    """From the environment and the files that it names; what `OTEL_CONFIG_FILE` says counts like code.

    Never raises: logs what is wrong, as `resolve_settings` does, and what comes of it.
    """
    path = os.environ.get(CONFIG_FILE_VARIABLE, "")
    origin = f"{CONFIG_FILE_VARIABLE} ({path})"
    try:
        options = _declared_options(path) if path else {}
    except _Unusable as error:
        _logger.warning(
            "%s=%s: %s. opentelemetry-instrument sets nothing up with it, so nothing is profiled",
            CONFIG_FILE_VARIABLE,
            path,
            error,
        )
        options = {}
    resolved = resolve_settings(os.environ, options, arguments_origin=origin)
    if not options or resolved.settings.profiles_anything or disabled_by_name():
        return resolved
    without = resolve_settings(os.environ, {})
    if not without.settings.profiles_anything:
        return resolved
    _logger.warning(
        "%s switches profiling off, but opentelemetry-instrument then switches it on without what that file "
        "says. Set OTEL_PYINSTRUMENT_ENABLED=false, which holds",
        origin,
    )
    return without


def declared_in() -> str:
    """OpenTelemetry's own configuration file; "" when there is none, or when the installed SDK reads none."""
    from opentelemetry.sdk import environment_variables as known

    return os.environ.get(CONFIG_FILE_VARIABLE, "") if hasattr(known, CONFIG_FILE_VARIABLE) else ""


def tracing_is_disabled() -> bool:
    """Whether `OTEL_SDK_DISABLED` is true."""
    from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED

    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


def disabled_by_name() -> bool:
    """Whether `opentelemetry-instrument` is told to leave this instrumentation out."""
    disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
    return bool(disabled & {ENTRY_POINT, "*"})


def _declared_options(path: str) -> dict[str, Any]:
    """As the distribution of OpenTelemetry hands them to our instrumentor.

    Raises:
        _Unusable: then it sets nothing up at all.
    """
    if not declared_in():
        _logger.warning(
            "%s=%s: the installed OpenTelemetry SDK is too old to read it", CONFIG_FILE_VARIABLE, path
        )
        return {}
    try:
        # By name: it has no stubs.
        library: Any = import_module("opentelemetry.configuration")
    except ImportError as error:
        raise _Unusable(f"{error}. Install it: pip install opentelemetry-configuration") from None
    try:
        with _said_by_us():
            configuration = library.load_config_file(path)
    except Exception as error:
        # Whatever it is, the distribution gives up.
        raise _Unusable(_reason(error)) from None
    if configuration.disabled:
        raise _Unusable("it says `disabled: true`")
    instrumentation = configuration.instrumentation_development
    nodes: dict[str, dict[str, Any]] | None = None if instrumentation is None else instrumentation.python
    return {} if nodes is None else _taken(nodes.get(ENTRY_POINT, {}))


def _taken(node: dict[str, Any]) -> dict[str, Any]:
    given = {str(name): value for name, value in node.items()}
    if not given.pop("enabled", True):
        return {"enabled": False}
    taken: Any = DeclarativeOptions(**given)
    return {name: value for name in FIELD_NAMES if (value := getattr(taken, name)) is not None}


@contextmanager
def _said_by_us() -> Generator[None]:
    """Keeps what the library logs off stderr: tracebacks of what it raises too."""
    logger, handler = getLogger("opentelemetry.configuration"), NullHandler()
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def _reason(error: Exception) -> str:
    cause: Any = error.__cause__
    mark = getattr(cause, "problem_mark", None)
    if mark is not None:
        return f"it is not valid YAML (line {mark.line + 1})"
    place = getattr(cause, "absolute_path", None)
    if place is not None:
        wrong = cause.message if cause.validator in _QUOTES_NAMES_ONLY else f"wrong {cause.validator}"
        where = " -> ".join(map(str, place)) or "its top"
        return f"it does not match OpenTelemetry's schema: {wrong} (at {where})"
    return str(error).partition("\n")[0] or type(error).__name__
