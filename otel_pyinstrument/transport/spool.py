"""Requests that could not be delivered, kept on disk and sent again by a thread while there are any."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from logging import getLogger

from opentelemetry.instrumentation.utils import suppress_instrumentation

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
    as long as writing a file. The thread exists only then, so never in the parent of forking workers.
    """

    def __init__(
        self,
        directory: SpoolDirectory,
        open_sender: OpenSender,
        *,
        losses: Losses,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directory = directory
        self._open_sender = open_sender
        self._losses = losses
        self._ended = ended
        self._next_look = 0.0
        self._renew()
        _spools[:] = [*(known for known in _spools if known() is not None), weakref.ref(self)]
        _reset_after_fork()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._away = False

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
            kept = self._directory.put(body)
            if kept:
                self._start(away=True)
        return kept

    def waits(self) -> bool:
        """Whether older requests wait; then what comes now belongs behind them."""
        if self._thread is not None:
            return True
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_SECONDS
        with self._lock:
            if self._directory.waiting():
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
        self._away = away
        self._thread = threading.Thread(target=self._run, name="otel-pyinstrument-spool", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        if self._away:
            self._stop.wait(pause)
        while not self._stop.is_set() and not self._ended():
            try:
                delivered, done = self._replay()
            except Exception:
                _logger.debug("Replaying the spool failed", exc_info=True)
                delivered, done = 0, False
            if done and self._finish():
                return
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
            if self._directory.waiting():
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
                for path in self._directory.waiting():
                    if self._stop.is_set() or self._ended():
                        return delivered, False
                    body = self._directory.read(path)
                    if body is None:
                        continue
                    if self._deliver(send, body) is Answer.LATER:
                        return delivered, False
                    self._directory.remove(path)
                    self._away = False
                    delivered += 1
            return delivered, True

    def _deliver(self, send: Send, body: bytes) -> Answer:
        answer = send(body)
        if answer is Answer.REFUSED:
            self._losses.count("refused by the backend", 1, len(body))
        return answer


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
