"""What `verify` prints: one line for each check, and a moving one while it waits."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TextIO

from otel_pyinstrument.command.verification.declared_remedies import as_declared

_COLORS = {"ok": "32", "problem": "31", "note": "33"}
_TITLE_CHARACTERS = 15
_PROGRESS_SECONDS = 5.0
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LINE_CHARACTERS = 1_000


class Report:
    """Lines go to `out`, progress to `progress`. Colours and a moving line only on a terminal."""

    def __init__(self, out: TextIO | None = None, progress: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._progress = progress or sys.stderr
        self._colored = self._out.isatty() and not os.environ.get("NO_COLOR")
        self._moving = self._progress.isatty()
        self._moving_characters = 0
        self._next_progress = 0.0
        self.problems = 0
        self.unchecked = 0

    def ok(self, title: str, finding: str) -> None:
        """The check found what it wants."""
        self._line("ok", title, finding)

    def problem(self, title: str, finding: str, remedy: str) -> None:
        """The check found something wrong; `remedy` is what to do about it, in terms of variables."""
        self.problems += 1
        self._line("problem", title, f"{_sentence(finding)} {as_declared(remedy)}")

    def note(self, title: str, finding: str) -> None:
        """Worth knowing, and not wrong."""
        self._line("note", title, finding)

    def unchecked_because(self, title: str, reason: str) -> None:
        """The check could not be made."""
        self.unchecked += 1
        self._line("note", title, f"not checked: {reason}")

    def progress(self, text: str) -> None:
        """Something takes time. Once in five seconds where lines cannot be overwritten."""
        if self._moving:
            self._clear()
            self._progress.write(text)
            self._progress.flush()
            self._moving_characters = len(text)
            return
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_SECONDS
            self._progress.write(f"{text}\n")
            self._progress.flush()

    def link(self, address: str) -> None:
        """An address on a line of its own, so that it can be clicked and copied."""
        self._clear()
        self._out.write(f"{'':{_TITLE_CHARACTERS + 10}}{printable(address)}\n")
        self._out.flush()

    def _line(self, kind: str, title: str, text: str) -> None:
        self._clear()
        label = f"{kind:8}"
        if self._colored:
            label = f"\x1b[{_COLORS[kind]}m{label}\x1b[0m"
        self._out.write(f"{label}  {title:{_TITLE_CHARACTERS}}{printable(text)}\n")
        self._out.flush()

    def _clear(self) -> None:
        if self._moving_characters:
            self._progress.write(f"\r{' ' * self._moving_characters}\r")
            self._progress.flush()
            self._moving_characters = 0


def printable(text: str) -> str:
    """On one line and without control characters: parts of it come from the network."""
    line = _UNPRINTABLE.sub(" ", text).strip()
    return line if len(line) <= _LINE_CHARACTERS else f"{line[:_LINE_CHARACTERS]}..."


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
