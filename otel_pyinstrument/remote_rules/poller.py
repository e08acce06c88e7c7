"""Asks the platform for the project's rules, in a thread of its own."""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Callable
from logging import getLogger

from opentelemetry.instrumentation.utils import suppress_instrumentation

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.remote_rules.download import DownloadFailed, download, rules_address
from otel_pyinstrument.remote_rules.last_good_copy import copy_path, read_copy, write_copy
from otel_pyinstrument.remote_rules.rules import InvalidRules, Rules, read_rules

_logger = getLogger(__name__)

_SHORTEST_SECONDS = 12.0
_LONGEST_SECONDS = 18.0
"""With the 10 seconds that an answer may take, a change is in force within 30."""


class RulesPoller:
    """Hands new rules to `apply`; the last ones hold until then, whatever happens to the platform.

    Nothing runs before `start`, which the first request of a process calls: so never in the parent of a
    server that forks its workers.
    """

    def __init__(
        self,
        platform_url: str,
        project_key: str,
        apply: Callable[[Rules], None],
        *,
        shortest_seconds: float = _SHORTEST_SECONDS,
        longest_seconds: float = _LONGEST_SECONDS,
    ) -> None:
        self._platform_url = platform_url
        self._address = rules_address(platform_url, project_key)
        self._apply = _weakly(apply)
        self._shortest_seconds = shortest_seconds
        self._longest_seconds = longest_seconds
        self.reset()

    def reset(self) -> None:
        """In a forked child, where the parent's thread does not run."""
        self.started = False
        self._stop = threading.Event()
        self._starting = threading.Lock()
        self._etag = ""
        self._complained = False

    def start(self) -> None:
        """Begin to ask, once. Cheap and non-blocking; any thread."""
        if self.started or not self._starting.acquire(blocking=False):
            return
        try:
            if not self.started and not self._stop.is_set():
                self.started = True
                threading.Thread(
                    target=self._run, args=(self._stop,), name="otel-pyinstrument-rules", daemon=True
                ).start()
        except RuntimeError as error:
            if came_from_signal_handler(error):
                raise
            _logger.warning("Rules of the platform are not asked for: %s", error)
        finally:
            self._starting.release()

    def stop(self) -> None:
        """Ask no more; a request under way is not waited for."""
        self._stop.set()

    def _run(self, stop: threading.Event) -> None:
        try:
            with suppress_instrumentation():
                self._poll_until(stop)
        except Exception:
            _logger.warning("Rules of the platform are no longer asked for", exc_info=True)

    def _poll_until(self, stop: threading.Event) -> None:
        path = copy_path(self._address, os.environ)
        copy = None if path is None else read_copy(path)
        if copy is not None:
            self._etag = copy.etag
            self._hand_over(copy.rules, stop)
        # Own numbers, see Gate.reset; spread, so that many processes do not ask at the same moment.
        spread = random.Random()  # noqa: S311 - jitter, not secrets
        while not stop.is_set():
            try:
                answer = download(self._address, self._etag)
                if answer.body is not None:
                    rules = read_rules(answer.body)
                    self._etag = answer.etag
                    self._hand_over(rules, stop)
                    if path is not None:
                        write_copy(path, answer.body, answer.etag)
                self._complained = False
            except (DownloadFailed, InvalidRules) as error:
                self._complain(error)
            if self._apply() is None:
                return
            stop.wait(spread.uniform(self._shortest_seconds, self._longest_seconds))

    def _hand_over(self, rules: Rules, stop: threading.Event) -> None:
        apply = self._apply()
        if apply is not None and not stop.is_set():
            apply(rules)

    def _complain(self, error: Exception) -> None:
        # Once per outage, as it lasts longer than one question.
        level = _logger.debug if self._complained else _logger.warning
        self._complained = True
        level("No new rules from %s: %s. The last ones hold", self._platform_url, error)


def _weakly(apply: Callable[[Rules], None]) -> Callable[[], Callable[[Rules], None] | None]:
    """`apply`, or None once its object is gone: a thread must not keep a gate alive that nobody uses.

    Not a `WeakMethod`: that runs Python while the object is being freed, see Gate.
    """
    owner: object = getattr(apply, "__self__", None)
    if owner is None:
        return lambda: apply
    reference = weakref.ref(owner)
    name: str = apply.__name__

    def method() -> Callable[[Rules], None] | None:
        return getattr(reference(), name, None)

    return method
