"""`otel-pyinstrument config`: the effective configuration, and where each value came from."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from otel_pyinstrument.command.service_settings import resolve_service_settings
from otel_pyinstrument.settings import shown_value

if TYPE_CHECKING:
    # It has no public name.
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]


def add_to(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this subcommand to the parser."""
    parser = commands.add_parser(
        "config",
        help="print the effective configuration and where each value came from",
        description="Reads the environment and the files that it names (OTEL_PYINSTRUMENT_CONFIG_FILE, "
        "OTEL_CONFIG_FILE) as a service started here by opentelemetry-instrument would. What the service's "
        "own code passes to instrument() is not seen. Secrets are masked.",
    )
    parser.set_defaults(run=run)


def run(_options: argparse.Namespace) -> int:
    """Print one line per setting to stdout. 1 when a value, a name or a file is bad: stderr says which."""
    problems = _Problems()
    logger = logging.getLogger("otel_pyinstrument")
    logger.addHandler(problems)
    logger.propagate = False
    try:
        settings, origins = resolve_service_settings()
    finally:
        logger.removeHandler(problems)
        logger.propagate = True
    values = {name: shown_value(getattr(settings, name), name) for name in origins}
    name_width = max(map(len, values))
    value_width = max(map(len, values.values()))
    for name, value in values.items():
        sys.stdout.write(f"{name:{name_width}}  {value:{value_width}}  {origins[name]}\n")
    return 1 if problems.count else 0


class _Problems(logging.Handler):
    """Writes warnings as plain lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        sys.stderr.write(f"otel-pyinstrument: {record.getMessage()}\n")
