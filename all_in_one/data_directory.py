"""The directory that holds everything of one installation: one `all_in_one` at a time may use it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class DataDirectoryNotAvailable(Exception):
    """Why the directory cannot be used, and what to do."""


@contextmanager
def claimed(directory: Path) -> Generator[None]:
    """Make the directory and hold it for this process; the claim ends with the process, however it ends.

    Raises:
        DataDirectoryNotAvailable: another process holds it, or it cannot be written.
    """
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        lock = (directory / "all_in_one.lock").open("a+", encoding="ascii")
    except OSError as error:
        raise DataDirectoryNotAvailable(
            f"data directory {directory}: {error.strerror}; name another one: --data DIR or DATA_DIR=DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise DataDirectoryNotAvailable(
                f"data directory {directory} is in use by another all_in_one (process {holder});"
                " stop that one, or name another directory: --data DIR or DATA_DIR=DIR"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
