"""The database of one run: an embedded MongoDB, or the one that the user named."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from all_in_one.console import Console
from all_in_one.interrupts import Interrupts, StopWanted
from all_in_one.supervisor import ServiceFailed, quoted
from profile_store.embedded_mongodb import embedded_mongodb

NAME = "mongodb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """`check` raises ServiceFailed when the embedded server has ended; `url` may hold a password."""

    url: str
    check: Callable[[], None]


@contextmanager
def running_database(
    mongodb_url: SecretStr | None, console: Console, interrupts: Interrupts, *, data: Path
) -> Generator[Database]:
    """A database that accepts writes; an embedded one is stopped at the end.

    Raises:
        EmbeddedMongoDBError: there is no server to start, or it did not start.
        StopWanted: a stop signal came while it started.
    """
    if mongodb_url is not None:
        console.state(NAME, "the one that MONGODB_URL names")
        yield Database(url=mongodb_url.get_secret_value(), check=lambda: None)
        return

    def progress(text: str) -> None:
        if interrupts.stop_wanted:
            raise StopWanted
        console.passing_state(NAME, text)

    def kill() -> None:
        if not server.exited.is_set():
            os.kill(server.pid, signal.SIGKILL)

    def check() -> None:
        if server.exited.is_set():
            raise ServiceFailed(
                f"{NAME} stopped unexpectedly. {quoted(data / 'mongod.log')}\n"
                "What was acknowledged is on disk: correct what its log says, then start again."
            )

    with embedded_mongodb(data, progress=progress) as server:
        interrupts.on_kill(kill)
        console.state(NAME, f"{server.url} (embedded)")
        yield Database(url=server.url, check=check)
        console.passing_state(NAME, "stopping ...")
    console.state(NAME, "stopped")
