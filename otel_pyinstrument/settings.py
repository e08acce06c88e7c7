"""What the user may decide: read once, from arguments, the environment and a file, in this order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import getLogger
from typing import Any, NamedTuple, cast

from otel_pyinstrument import environment_variables, setting_readers
from otel_pyinstrument.masking import MASK, masked_url

_logger = getLogger(__name__)

_PREFIX = "OTEL_PYINSTRUMENT_"
_SHOWN_CHARACTERS = 80
_SECRETS = frozenset({"project_key"})


class Settings(NamedTuple):
    """Fields are named like the variables: `interval` is `OTEL_PYINSTRUMENT_INTERVAL` and so on."""

    enabled: bool = True
    rate: float = 0.02
    """Share of requests, 0 to 1."""
    endpoint_rates: tuple[str, ...] = ()
    """The same for single endpoints, instead of `rate`: `GET /orders/{id}=0.5`, `/health=0`."""
    cpu_budget: float = 0.01
    """Share of the process's CPU time, 0 to 1; 1 is no limit."""
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
    slow_threshold: float = 1.0
    """Seconds from which on a request is slow."""
    slow_rate: float = 0.2
    """Share of requests of an endpoint that was slow."""
    error_rate: float = 0.2
    """Share of requests of an endpoint that failed."""
    include: tuple[str, ...] = ()
    """Patterns; when there are any, other requests are left alone."""
    exclude: tuple[str, ...] = ()
    """Patterns of requests that are left alone."""
    config_file: str = ""
    platform_url: str = ""
    """Where rules come from; empty: nowhere."""
    project_key: str = ""

    @property
    def interval_seconds(self) -> float:
        return self.interval / 1000

    @property
    def asks_for_rules(self) -> bool:
        return bool(self.platform_url and self.project_key)

    @property
    def profiles_anything(self) -> bool:
        """Whether any request could be; with a rate of 0 an endpoint's own or a rule may be above it."""
        may_have_rate = self.rate > 0 or bool(self.endpoint_rates) or self.asks_for_rules
        return self.enabled and may_have_rate and self.cpu_budget > 0 and self.max_concurrent > 0


class Resolved(NamedTuple):
    """`origins` has for every field where its value came from, in words."""

    settings: Settings
    origins: Mapping[str, str]


def read_settings(environ: Mapping[str, str], arguments: Mapping[str, Any]) -> Settings:
    """The settings alone, see `resolve_settings`."""
    return resolve_settings(environ, arguments).settings


def resolve_settings(
    environ: Mapping[str, str], arguments: Mapping[str, Any], *, arguments_origin: str = "code"
) -> Resolved:
    """Settings from `arguments` (named like the fields), else `environ`, else the file, else the defaults.

    Never raises: a bad value is logged once with its name and the default that is used instead; of a list
    only the bad entries are left out. A name that is not known is logged too. An argument that is None
    and a text that is empty count as not given. `arguments_origin` says where `arguments` come from.
    """
    defaults = Settings()
    unknown = sorted(arguments.keys() - _READERS.keys())
    if unknown:
        _logger.warning("Unknown options %s; known are %s", ", ".join(unknown), ", ".join(_READERS))
    known = {variable_of(name) for name in _READERS}
    unknown = sorted(name for name in environ if name.startswith(_PREFIX) and name not in known)
    if unknown:
        _logger.warning("Unknown variables %s; known are %s", ", ".join(unknown), ", ".join(sorted(known)))
    from_file = _file_options(environ, arguments)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, read in _READERS.items():
        origins[name] = "default"
        for given, label, origin in (
            (arguments.get(name), f"{name}=", arguments_origin),
            (environ.get(variable_of(name)), f"{variable_of(name)}=", f"environment ({variable_of(name)})"),
            (from_file.options.get(name), f"{from_file.path}: {name}=", f"file ({from_file.path})"),
        ):
            if not _is_given(given):
                continue
            try:
                values[name] = read(given)
                origins[name] = origin
            except setting_readers.PartlyBad as error:
                values[name] = error.usable
                origins[name] = f"{origin}, without what is bad"
                _logger.warning("%s%s: %s", label, _shown_given(error.bad, name), error)
            except (TypeError, ValueError, OverflowError) as error:
                shown = _shown_given(given, name)
                default = getattr(defaults, name)
                _logger.warning("%s%s: %s; using the default %s", label, shown, error, shown_value(default))
                origins[name] = f"default, because the value in {origin} is bad"
            break
    settings = Settings(**values)
    if settings.platform_url and not settings.project_key:
        _logger.warning(
            "%s is set but %s is not: no rules are asked for",
            variable_of("platform_url"),
            variable_of("project_key"),
        )
    return Resolved(settings, origins)


def variable_of(name: str) -> str:
    """The environment variable of the field `name`."""
    return getattr(environment_variables, f"{_PREFIX}{name.upper()}")


def shown_value(value: object, name: str = "") -> str:
    """As the user would write it; the value of a secret field `name` is masked."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        value = ",".join(cast("tuple[str, ...]", value))
    if not value:
        return "none"
    return MASK if name in _SECRETS else str(value)


def _shown_given(given: object, name: str) -> str:
    """A bad value, cut, without what may be secret in it."""
    if name in _SECRETS:
        return MASK
    text = str(given)
    return (masked_url(text) if name == "platform_url" else text)[:_SHOWN_CHARACTERS]


def _is_given(value: object) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


class _File(NamedTuple):
    path: str
    options: Mapping[str, Any]


def _file_options(environ: Mapping[str, str], arguments: Mapping[str, Any]) -> _File:
    in_code = arguments.get("config_file")
    given = in_code if _is_given(in_code) else environ.get(variable_of("config_file"), "")
    try:
        path = setting_readers.configuration_file(given)
    except ValueError:  # said where all settings are read
        path = ""
    if not path:
        return _File("", {})
    # Few have one: the others do not pay for loading it.
    from otel_pyinstrument.configuration_file import BadConfigurationFile, read_configuration_file

    try:
        options = read_configuration_file(path, environ)
    except BadConfigurationFile as error:
        _logger.warning("%s=%s: the file %s; going on without it", variable_of("config_file"), path, error)
        return _File(path, {})
    unknown = sorted(options.keys() - _READERS.keys() | options.keys() & {"config_file"})
    if unknown:
        names = ", ".join(name[:_SHOWN_CHARACTERS] for name in unknown)
        _logger.warning(
            "%s: unknown options %s; known are %s",
            path,
            names,
            ", ".join(name for name in _READERS if name != "config_file"),
        )
    return _File(path, {name: value for name, value in options.items() if name not in unknown})


_READERS: dict[str, Callable[[Any], Any]] = {
    "enabled": setting_readers.boolean,
    "rate": setting_readers.number(0, 1),
    "endpoint_rates": setting_readers.endpoint_rates,
    "cpu_budget": setting_readers.number(0, 1),
    "max_concurrent": setting_readers.whole_number(0, 1000),
    "interval": setting_readers.number(1, 1000),
    "max_duration": setting_readers.number(0.1, 3600),
    "mask": setting_readers.names,
    "event": setting_readers.one_of("span", "log"),
    "max_request_bytes": setting_readers.whole_number(65_536, 1 << 30),
    "spool_dir": setting_readers.path,
    "spool_max_bytes": setting_readers.whole_number(1 << 20, 1 << 50),
    "spool_max_age": setting_readers.number(1, 365 * 86_400),
    "slow_threshold": setting_readers.number(0, 3600),
    "slow_rate": setting_readers.number(0, 1),
    "error_rate": setting_readers.number(0, 1),
    "include": setting_readers.inclusive_patterns,
    "exclude": setting_readers.patterns,
    "config_file": setting_readers.configuration_file,
    "platform_url": setting_readers.web_address,
    "project_key": setting_readers.text,
}

FIELD_NAMES = Settings._fields
