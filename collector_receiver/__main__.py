"""`python -m collector_receiver`: the receiver with the settings of the environment (docs/receiver.md)."""

from __future__ import annotations

import argparse
import os
import sys

DESCRIPTION = """\
Take OpenTelemetry spans and profiles in over OTLP/gRPC and OTLP/HTTP and store them in MongoDB,
until SIGTERM or Ctrl-C.

Settings come from the environment, the most important ones:
  MONGODB_URL, MONGODB_DATABASE    the database, such as mongodb://127.0.0.1:27017, and its name there
  BIND_HOST                        the address to listen on
  OTLP_GRPC_PORT, OTLP_HTTP_PORT   the ports
  INGEST_MODE                      open, or key: only spans with a project's key are accepted

docs/receiver.md has all of them with their defaults."""


def main() -> int:
    """The exit code, see `process.run`; 2 for arguments too."""
    # Before what takes long to import.
    argparse.ArgumentParser(
        prog="python -m collector_receiver",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    # gRPC reads it when it is imported. A line for each failed TLS handshake would let anyone fill the log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from collector_receiver import process, processes
    from collector_receiver.settings import InvalidSettings, ReceiverSettings, load
    from collector_receiver.tls import load_tls
    from profile_store import StoreSettings

    try:
        settings, store_settings = load(ReceiverSettings), load(StoreSettings)
        load_tls(settings)  # said before the database is waited for
    except InvalidSettings as problem:
        return process.fail(str(problem), process.EXIT_SETTINGS)
    process.configure_logging(settings)
    if settings.receiver_processes == 1:
        return process.run(settings, store_settings)
    return processes.run(settings, store_settings)


if __name__ == "__main__":
    sys.exit(main())
