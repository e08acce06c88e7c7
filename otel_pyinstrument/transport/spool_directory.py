"""Requests that wait on disk: one file each, in the order of their names, within bounds.

    <spool directory>/<destination>/<nanoseconds since 1970>-<random>.otlp

Several processes share a destination. Nothing here locks but `replay_lock`: files appear by rename, and
whoever removes one that is gone already has what it wanted.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.transport.losses import Losses

_logger = getLogger(__name__)

_MAGIC = b"otlp-spool-1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size
_OURS = re.compile(r"\d{20}-[0-9a-f]{8}\.(otlp|tmp|damaged)")
_WAITING = ".otlp"
_MAX_FILES = 10_000
"""Bounds the time that looking through them takes; at 5 seconds between two batches, 14 hours."""
_LOCK_NAME = "lock"
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""For these no file can be read, for a while; whatever else goes wrong is about the one file."""


@dataclass(frozen=True)
class _File:
    path: Path
    size_bytes: int
    age_seconds: float


class SpoolDirectory:
    """The part of a spool directory that belongs to one destination, and the bounds of the whole."""

    def __init__(
        self, root: Path, destination: str, *, max_bytes: int, max_age_seconds: float, losses: Losses
    ) -> None:
        self._root = root
        self._folder = root / destination
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._losses = losses
        self._last_name_ns = 0
        self._lock_file: int | None = None

    def create(self) -> None:
        """Make the folder, for this user alone.

        Raises:
            OSError: it cannot be made, or belongs to somebody else.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        found = self._folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(f"{self._folder} is not a directory")
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            raise PermissionError(f"{self._folder} belongs to another user")
        if stat.S_IMODE(found.st_mode) & 0o077:
            self._folder.chmod(0o700)

    def put(self, body: bytes) -> Path | None:
        """Write one request so that it is there whole or not at all, and drop the oldest above the bounds.

        Its file; None when it is larger than all that may be kept.

        Raises:
            OSError: it could not be written; nothing of it is left.
        """
        content_bytes = len(_MAGIC) + _DIGEST_BYTES + len(body)
        if content_bytes > self._max_bytes:
            self._losses.count("larger than the whole spool", 1, len(body))
            return None
        self.create()
        self._make_room(content_bytes)
        # Never twice the same, and never earlier than the last one when the clock is set back.
        self._last_name_ns = max(time.time_ns(), self._last_name_ns + 1)
        path = self._folder / f"{self._last_name_ns:020d}-{secrets.token_hex(4)}{_WAITING}"
        temporary = path.with_suffix(".tmp")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(_MAGIC + hashlib.sha256(body).digest())
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return path

    def waiting(self) -> list[Path]:
        """The requests of this destination, oldest first."""
        return sorted(file.path for file in self._files([self._folder]) if file.path.suffix == _WAITING)

    def holds(self, path: Path) -> bool:
        """Whether that request still waits, as far as is known."""
        try:
            path.lstat()
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            pass  # who writes there next will say so
        return True

    def read(self, path: Path) -> bytes | None:
        """The request; None when it is gone, too old (then removed), damaged or unreadable (then set aside).

        Raises:
            OSError: no file can be read now, or this one cannot be set aside.
        """
        try:
            age_seconds = time.time() - path.stat().st_mtime
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _SHORTAGES or came_from_signal_handler(error):
                raise
            self._set_aside(path, f"is unreadable ({error.strerror})")
            return None
        if age_seconds > self._max_age_seconds:
            self._drop(path, "too old", len(content))
            return None
        body = content[len(_MAGIC) + _DIGEST_BYTES :]
        if content[: -len(body) or None] != _MAGIC + hashlib.sha256(body).digest():
            self._set_aside(path, "is damaged")
            return None
        return body

    def _set_aside(self, path: Path, reason: str) -> None:
        kept = path.with_suffix(".damaged")
        os.replace(path, kept)
        _logger.warning("A request in the spool %s and set aside: %s", reason, kept)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    @contextmanager
    def replay_lock(self) -> Generator[bool]:
        """Whether this process is the one that replays now. The system frees the lock of a dead process."""
        self.create()
        self._lock_file = os.open(self._folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _locks(self._lock_file)
        finally:
            self.release_lock()

    def release_lock(self) -> None:
        """Also in a forked child, which must not hold on to the lock of its parent."""
        held, self._lock_file = self._lock_file, None
        if held is not None:
            os.close(held)

    def _make_room(self, wanted_bytes: int) -> None:
        files = sorted(self._files(self._folders()), key=lambda file: file.path.name)
        total_bytes = wanted_bytes + sum(file.size_bytes for file in files)
        count = 1 + len(files)
        for file in files:
            if file.age_seconds > self._max_age_seconds:
                reason = "too old"
            elif total_bytes > self._max_bytes or count > _MAX_FILES:
                reason = "the spool is full"
            else:
                continue
            self._drop(file.path, reason, file.size_bytes)
            total_bytes -= file.size_bytes
            count -= 1

    def _drop(self, path: Path, reason: str, size_bytes: int) -> None:
        try:
            path.unlink()
        except FileNotFoundError:
            return
        if path.suffix == _WAITING:
            self._losses.count(reason, 1, size_bytes)

    def _folders(self) -> list[Path]:
        with os.scandir(self._root) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]

    def _files(self, folders: Sequence[Path]) -> Iterator[_File]:
        now = time.time()
        for folder in folders:
            try:
                with os.scandir(folder) as entries:
                    found = [entry for entry in entries if _OURS.fullmatch(entry.name)]
            except (FileNotFoundError, PermissionError):
                continue
            for entry in found:
                try:
                    about = entry.stat(follow_symlinks=False)
                except (FileNotFoundError, PermissionError):
                    continue  # delivered or dropped meanwhile; the others are still there
                yield _File(Path(entry.path), about.st_size, now - about.st_mtime)


def _locks(file: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
