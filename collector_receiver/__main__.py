"""`python -m collector_receiver`: the receiver with the settings of the environment (docs/receiver.md)."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """The exit code, see `process.run`."""
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
