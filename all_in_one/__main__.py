"""`python -m all_in_one [--data DIR] [--demo flask|django|fastapi|none]`: the whole platform, until Ctrl-C.

Exit codes: 0 stopped on request, 1 a service failed, 2 it could not begin (settings, ports, data directory,
or the database that MONGODB_URL names).
"""

from __future__ import annotations

import argparse
import sys

from all_in_one.console import Console
from all_in_one.data_directory import DataDirectoryNotAvailable, claimed
from all_in_one.demos import DEMOS
from all_in_one.interrupts import Interrupts
from all_in_one.launch import SERVICE_FAILED, choose_addresses, run
from all_in_one.launch_settings import BadSettings, LaunchSettings
from all_in_one.ports import PortsNotAvailable
from profile_store.contracts import StoreError
from profile_store.embedded_mongodb import EmbeddedMongoDBError
from profile_store.output import escape_what_stdout_lacks

CANNOT_BEGIN = 2
NO_DEMO = "none"

DESCRIPTION = """\
Run the whole platform on this machine until Ctrl-C: the receiver, the API, the pages and, unless MONGODB_URL
names another one, a MongoDB of its own.

Settings come from the environment, the most important ones:
  MONGODB_URL                                 a database of yours instead of the embedded one
  OTLP_GRPC_PORT, OTLP_HTTP_PORT, HTTP_PORT   the ports of the receiver and of API and pages
  DATA_DIR                                    where data and logs stay

docs/quick-start.md, docs/receiver.md and docs/api.md have all of them with their defaults."""


def main() -> int:
    """Run until a stop signal; returns the exit code."""
    escape_what_stdout_lacks()
    parser = argparse.ArgumentParser(
        prog="python -m all_in_one",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", metavar="DIR", help="where data and logs stay (default: DATA_DIR or ./data)"
    )
    parser.add_argument(
        "--demo",
        choices=[*DEMOS, NO_DEMO],
        default=NO_DEMO,
        help="a demo shop with visitors, in this framework (default: none)",
    )
    arguments = parser.parse_args()
    demo = DEMOS.get(arguments.demo)
    console = Console(sys.stdout)
    interrupts = Interrupts()
    interrupts.install()
    try:
        settings = LaunchSettings.from_environment(with_demo=demo is not None)
        data = settings.data_directory(arguments.data)
        with claimed(data):
            addresses = choose_addresses(settings, with_demo=demo is not None)
            kept = "" if settings.store.mongodb_url else f"data in {data}, "
            console.line(f"otel-pyinstrument: {kept}logs in {data / 'logs'}")
            return run(settings, addresses, console, interrupts, data=data, demo=demo)
    except (BadSettings, DataDirectoryNotAvailable, PortsNotAvailable, StoreError) as problem:
        sys.stderr.write(f"all_in_one cannot start:\n{problem}\n")
        return CANNOT_BEGIN
    except EmbeddedMongoDBError as problem:
        sys.stderr.write(f"all_in_one cannot start its database:\n{problem}\n")
        return SERVICE_FAILED


if __name__ == "__main__":
    sys.exit(main())
