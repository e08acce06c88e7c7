from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable

import pytest

from otel_pyinstrument.guard import Guard


def fail(*_arguments: object) -> None:
    raise ValueError("on purpose")


def test_the_result_passes_through() -> None:
    assert Guard(lambda: None).call("hook", max, 1, 2) == 2


def test_a_failure_switches_off_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    # Given a guard
    switched: list[str] = []
    guard = Guard(lambda: switched.append("off"))

    # When a hook fails and is called again, and another one too
    results = [guard.call("one", fail), guard.call("one", fail), guard.call("two", lambda: "not called")]

    # Then one line says so and nothing of ours runs any more
    assert results == [None, None, None]
    assert switched == ["off"]
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "Profiling is off in this process: one failed",
    )
    assert record.exc_info[0] is ValueError


def test_a_failure_to_switch_off_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(fail)

    assert guard.call("hook", fail) is None
    assert guard.tripped
    assert len(caplog.records) == 1


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_not_an_exception_passes(exception: type[BaseException]) -> None:
    def interrupt() -> None:
        raise exception

    guard = Guard(lambda: None)
    with pytest.raises(exception):
        guard.call("hook", interrupt)
    assert not guard.tripped


class _Alarm:
    """A signal handler in the three forms that applications use."""

    def __call__(self, *_arguments: object) -> None:
        raise TimeoutError("the application's")

    def method(self, *arguments: object) -> None:
        self(*arguments)


@pytest.mark.parametrize("handler", [_Alarm(), _Alarm().method, lambda *_arguments: _Alarm()()])
def test_what_a_signal_handler_raises_passes(handler: Callable[..., None]) -> None:
    # Given an application with a signal handler that raises an ordinary exception
    before = signal.signal(signal.SIGUSR1, handler)
    guard = Guard(lambda: None)
    try:
        # When the signal arrives while a hook of ours runs, the application sees its exception
        with pytest.raises(TimeoutError):
            guard.call("hook", signal.raise_signal, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    # Then profiling goes on
    assert not guard.tripped


@pytest.mark.parametrize("by_name", [True, False])
def test_what_a_handler_raises_passes_when_it_has_put_back_the_earlier_one(by_name: bool) -> None:
    # Given a timeout that undoes itself before it raises
    def put_back_and_raise() -> None:
        signal.signal(signal.SIGUSR1, before)
        raise TimeoutError("the application's")

    def named(_number: int, _frame: object) -> None:
        put_back_and_raise()

    def unnamed(*_arguments: object) -> None:
        put_back_and_raise()

    before = signal.signal(signal.SIGUSR1, named if by_name else unnamed)
    guard = Guard(lambda: None)

    # When the signal arrives while a hook of ours runs, the application sees its exception
    with pytest.raises(TimeoutError):
        guard.call("hook", lambda: signal.raise_signal(signal.SIGUSR1))

    # Then profiling goes on
    assert not guard.tripped


def test_a_failure_below_a_call_with_a_frame_is_ours() -> None:
    # Given a function that is given the frame of its caller, as samplers are
    def look_at(_frame: object, _event: str) -> None:
        raise ValueError("on purpose")

    guard = Guard(lambda: None)

    assert guard.call("hook", lambda: look_at(sys._getframe(), "call")) is None
    assert guard.tripped


def test_tests_can_see_the_exception() -> None:
    with pytest.raises(ValueError, match="on purpose"):
        Guard(lambda: None, reraise=True).call("hook", fail)


def test_a_report_is_logged_once_per_hook_and_switches_nothing_off(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(fail)
    guard.report("sampling", ValueError("first"))
    guard.report("sampling", ValueError("second"))

    assert guard.call("hook", lambda: 1) == 1
    assert [record.getMessage() for record in caplog.records] == ["A profile is incomplete: sampling failed"]
