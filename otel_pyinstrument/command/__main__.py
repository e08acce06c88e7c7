"""Entry point of `otel-pyinstrument`; each subcommand is a module with `add_to` and `run`."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from otel_pyinstrument.command import config, overhead, verify
from otel_pyinstrument.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that `arguments` name; the result is the exit code."""
    parser = argparse.ArgumentParser(
        prog="otel-pyinstrument", description="Per-request call trees for OpenTelemetry"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (config, verify, overhead):
        command.add_to(commands)
    options = parser.parse_args(arguments)
    stdout: object = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):
        # As on stderr: what the terminal cannot show is escaped.
        stdout.reconfigure(errors="backslashreplace")
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
