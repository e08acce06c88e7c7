"""The database of one run: an embedded MongoDB, or the one that the user named."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from all_in_one.child_process import describe_exit
from all_in_one.console import Console
from all_in_one.interrupts import Interrupts, StopWanted
from all_in_one.supervisor import ServiceFailed, quoted
from profile_store import StoreSettings, check_mongodb
from profile_store.embedded_mongodb import EmbeddedMongoDB, embedded_mongodb

NAME = "mongodb"
KILLED = (None, -signal.SIGKILL)
"""Exit codes of a server that did not stop when asked; None: it is not even gone after the kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """`check` raises ServiceFailed when the embedded server has ended; `url` may hold a password."""

    url: str
    check: Callable[[], None]


@contextmanager
def running_database(
    settings: StoreSettings, console: Console, interrupts: Interrupts, *, data: Path
) -> Generator[Database]:
    """A database that accepts writes; an embedded one is stopped at the end.

    Raises:
        EmbeddedMongoDBError: there is no server to start, or it did not start.
        StoreError: the database that MONGODB_URL names does not answer.
        StopWanted: a stop signal came while it started.
    """
    if settings.mongodb_url is not None:
        console.passing_state(NAME, "looking for the one that MONGODB_URL names ...")
        check_mongodb(settings)
        console.state(NAME, "the one that MONGODB_URL names")
        yield Database(url=settings.mongodb_url.get_secret_value(), check=lambda: None)
        return

    def progress(text: str) -> None:
        if interrupts.stop_wanted:
            raise StopWanted
        console.passing_state(NAME, text)

    def kill() -> None:
        if not server.exited.is_set():
            os.kill(server.pid, signal.SIGKILL)

    death_was_told = False

    def check() -> None:
        nonlocal death_was_told
        if server.exited.is_set():
            death_was_told = True
            raise ServiceFailed(
                f"{NAME} stopped unexpectedly ({_end_of(server)}). {quoted(data / 'mongod.log')}\n"
                "What was acknowledged is on disk: correct what its log says, then start again."
            )

    with embedded_mongodb(data, progress=progress) as server:
        interrupts.on_kill(kill)
        console.state(NAME, f"{server.url} (embedded)")
        yield Database(url=server.url, check=check)
        console.passing_state(NAME, "stopping ...")
    if not death_was_told:
        console.state(NAME, "killed" if server.exit_code in KILLED else "stopped")


def _end_of(server: EmbeddedMongoDB) -> str:
    return "cause unknown" if server.exit_code is None else describe_exit(server.exit_code)
