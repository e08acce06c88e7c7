"""A console whose text a test can read, and signals as they were afterwards."""

from __future__ import annotations

import io
import signal

import pytest

from all_in_one.console import Console
from all_in_one.interrupts import STOP_SIGNALS, Interrupts


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(output) -> Console:
    return Console(output)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal() -> Terminal:
    """A stream that sees the passing states too."""
    return Terminal()


@pytest.fixture
def interrupts():
    """Installed; the old handlers come back after the test."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    interrupts = Interrupts()
    interrupts.install()
    yield interrupts
    for number, handler in before.items():
        signal.signal(number, handler)
