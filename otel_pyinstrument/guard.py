"""One guard around every hook of ours that runs on a thread of the application."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from logging import getLogger
from types import CodeType, FrameType
from typing import Any, cast

_logger = getLogger(__name__)


class Guard:
    """Lets no `Exception` of ours reach the application; the first one switches profiling off.

    The SDK calls span processors unprotected: what they raise surfaces in the user's request and keeps
    the next processor from seeing the span. What is not ours passes: `KeyboardInterrupt`, `SystemExit`,
    and whatever a signal handler of the application raises while our code happens to run.

    `switch_off` runs after the first failure; what it raises is swallowed too. `reraise` is for tests.
    """

    def __init__(self, switch_off: Callable[[], None], *, reraise: bool = False) -> None:
        self._switch_off = switch_off
        self._reraise = reraise
        self._reported: set[str] = set()
        self.tripped = False

    def call(self, hook: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `function`, or None when it raises or has raised before. Any thread."""
        if self.tripped:
            return None
        try:
            return function(*arguments)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self.failed(hook, error)
            return None

    def failed(self, hook: str, error: Exception) -> None:
        """Switch off because of `error`: for hooks that run for every span and cannot afford `call`.

        They ask `tripped` themselves, and let pass what came from a signal handler.
        """
        self._trip(hook, error)
        if self._reraise:
            raise error

    def report(self, hook: str, error: BaseException) -> None:
        """Log `error` once per hook: for a failure that spoilt one profile and nothing else. Any thread."""
        if hook in self._reported:
            return
        self._reported.add(hook)
        _logger.warning("A profile is incomplete: %s failed", hook, exc_info=error)

    def _trip(self, hook: str, error: Exception) -> None:
        self.tripped = True
        if hook not in self._reported:
            self._reported.add(hook)
            _logger.error("Profiling is off in this process: %s failed", hook, exc_info=error)
        try:
            self._switch_off()
        except Exception as failure:
            if came_from_signal_handler(failure):
                raise
            _logger.debug("Switching profiling off failed too", exc_info=True)


def came_from_signal_handler(error: BaseException) -> bool:
    """Whether a signal handler raised `error`: a timeout, say, that the application waits for."""
    traceback = error.__traceback__
    if traceback is None or traceback.tb_next is None:
        return False  # raised where it was caught: no call lies between
    if threading.current_thread() is not threading.main_thread():
        return False  # Python runs signal handlers on the main thread only
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    interrupted: FrameType | None = None
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code in codes or (interrupted is not None and _handles_signal(frame, interrupted)):
            return True
        interrupted, traceback = frame, traceback.tb_next
    return False


def _handles_signal(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether `frame` was called with a number and the frame below which it runs, as handlers are.

    For those that are not installed any more: a timeout puts back the earlier handler before it raises.
    """
    values: list[object] = []
    for value in frame.f_locals.values():
        values += cast("tuple[object, ...]", value) if type(value) is tuple else (value,)
    return any(type(number) is int and given is interrupted for number, given in pairwise(values))


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, partial):
        handler = handler.func
    code: object = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
