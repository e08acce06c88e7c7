"""Requests that could not be delivered, kept on disk and sent again by a thread while there are any."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from logging import getLogger
from pathlib import Path

from opentelemetry.instrumentation.utils import suppress_instrumentation

from otel_pyinstrument import native
from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.transport.losses import Losses
from otel_pyinstrument.transport.senders import Answer, OpenSender, Send
from otel_pyinstrument.transport.spool_directory import SpoolDirectory

_logger = getLogger(__name__)

_LOOK_SECONDS = 30.0
"""How often an exporter that works looks for what other, ended processes have left."""
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 10.0
_STOP_SECONDS = 1.0
_POLL_SECONDS = 0.02


class Spool:
    """The spool of one exporter. `put` and `waits` on its export thread, the rest on any.

    While requests wait, new ones wait behind them: that keeps the order, and an export during an outage takes
    as long as writing a file. They do not wait behind what other processes have written later, which may
    never end. The thread exists only while something waits, so never in the parent of forking workers.
    """

    def __init__(
        self,
        directory: SpoolDirectory,
        open_sender: OpenSender,
        *,
        losses: Losses,
        max_bytes: int = 0,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """`max_bytes`: of several requests that are sent as one. 0: each is sent alone.

        Fewer bytes than that go together while so many find no answer.
        """
        self._directory = directory
        self._open_sender = open_sender
        self._losses = losses
        self._max_bytes = max_bytes
        self._group_bytes = max_bytes
        self._ended = ended
        self._next_look = 0.0
        self._renew()
        _spools[:] = [*(known for known in _spools if known() is not None), weakref.ref(self)]
        _reset_after_fork()

    def _renew(self) -> None:
        # Reentrant: a signal handler or finalizer may export a span while another is being kept. Of the real
        # thread: where gevent has replaced threads, a new one runs on ours before its `start` returns.
        self._lock = native.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._away = False
        self._newest: Path | None = None

    def reset_after_fork(self) -> None:
        """In the forked child: the parent's thread and lock are the parent's."""
        self._directory.release_lock()
        self._next_look = 0.0
        self._renew()

    def put(self, body: bytes) -> bool:
        """Keep one encoded request that could not be delivered; False when it is too large for that.

        Raises:
            OSError: it could not be written.
        """
        with self._lock:
            path = self._directory.put(body)
            if path is not None:
                self._newest = path
                self._start(away=True)
        return path is not None

    def waits(self) -> bool:
        """Whether older requests wait; then what comes now belongs behind them."""
        if self._thread is not None:
            # Sent in their order: with the newest that this process knows of, all before it are gone.
            return self._newest is None or self._directory.holds(self._newest)
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_SECONDS
        with self._lock:
            if waiting := self._directory.waiting():
                self._newest = waiting[-1]
                self._start(away=False)
        return self._thread is not None

    def drain(self, limit_seconds: float) -> None:
        """Wait while requests are being delivered, but not for a backend that is away."""
        end = time.monotonic() + limit_seconds
        while self._thread is not None and not self._away and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Send nothing any more; what waits stays on disk. Takes a second at most."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(_STOP_SECONDS)

    def _start(self, *, away: bool) -> None:
        if self._thread is not None or self._stop.is_set():
            return
        thread = threading.Thread(target=self._run, name="otel-pyinstrument-spool", daemon=True)
        if self._thread is not None:
            return  # a signal handler has been here meanwhile
        self._away = away
        self._thread = thread
        try:
            thread.start()
        except RuntimeError as error:
            # No more threads, or the interpreter ends: what waits is safe on disk until the next put or look.
            if came_from_signal_handler(error):
                raise  # the thread runs: it is what `start` waits for
            _logger.debug("The thread of the spool cannot be started", exc_info=True)
            self._thread = None

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        if self._away:
            self._stop.wait(pause)
        while not self._stop.is_set() and not self._ended():
            try:
                delivered, done = self._replay()
                if done and self._finish():
                    return
            except Exception:
                _logger.debug("Replaying the spool failed", exc_info=True)
                delivered, done = 0, False
            if done or delivered:
                pause = _FIRST_PAUSE_SECONDS
            if not done:
                self._away = True
                self._stop.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads retries, no secret
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        with self._lock:
            self._thread = None

    def _finish(self) -> bool:
        with self._lock:
            newest = self._newest
            # A finalizer may keep another in the middle of looking, and starts no thread: this one is there.
            if self._directory.waiting() or self._newest is not newest:
                return False
            self._thread = None
            return True

    def _replay(self) -> tuple[int, bool]:
        """How many were delivered, and whether none was left that should wait longer."""
        with self._directory.replay_lock() as mine:
            if not mine:
                return 0, not self._directory.waiting()
            delivered = 0
            with suppress_instrumentation(), self._open_sender() as send:
                for group in self._groups():
                    if self._stop.is_set() or self._ended():
                        return delivered, False
                    done = self._deliver(send, group)
                    delivered += done
                    if done:
                        self._away = False
                    if done < len(group):
                        return delivered, False
            return delivered, True

    def _groups(self) -> Iterator[list[tuple[Path, bytes]]]:
        """What waits, oldest first, in groups that are sent as one request each.

        Encoded OTLP requests one behind the other are one request with the content of all. The first goes
        alone: it finds out whether the backend is there.
        """
        group: list[tuple[Path, bytes]] = []
        size_bytes, limit_bytes = 0, 0
        for path in self._directory.waiting():
            body = self._directory.read(path)
            if body is None:
                continue
            if group and size_bytes + len(body) > limit_bytes:
                yield group
                group, size_bytes, limit_bytes = [], 0, self._group_bytes
            group.append((path, body))
            size_bytes += len(body)
        if group:
            yield group

    def _deliver(self, send: Send, group: list[tuple[Path, bytes]]) -> int:
        """How many of `group`, from its first on, need not be sent again; their files are removed."""
        body = b"".join(body for _, body in group)
        answer = send(body)
        if answer is Answer.LATER:
            if len(group) > 1:
                # Perhaps so much takes longer than the timeout, while each alone does not.
                self._group_bytes = len(body) // 2
            return 0
        if answer is Answer.REFUSED and len(group) > 1:
            for done, request in enumerate(group):
                # One that is bad costs none of the others.
                if self._stop.is_set() or not self._deliver(send, [request]):
                    return done
            return len(group)
        if answer is Answer.REFUSED:
            self._losses.count("refused by the backend", 1, len(body))
        else:
            # Slower up than down: what is too much is uploaded for nothing, and waited for.
            grown = max(self._group_bytes, len(body)) * 9 // 8 + 1
            self._group_bytes = min(grown, self._max_bytes)
        for path, _ in group:
            self._directory.remove(path)
        return len(group)


# Plain weak references: a WeakSet would run Python while a spool is being freed, and swallow what a signal
# handler of the application raises just then.
_spools: list[weakref.ref[Spool]] = []
_fork_hook_registered = False


def _reset_after_fork() -> None:
    global _fork_hook_registered
    if not _fork_hook_registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset_spools)
        _fork_hook_registered = True


def _reset_spools() -> None:
    for reference in list(_spools):
        if (spool := reference()) is not None:
            spool.reset_after_fork()
