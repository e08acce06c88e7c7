"""What the person at the terminal reads: one line per service."""

from __future__ import annotations

from typing import TextIO

NAME_WIDTH = 10
CLEAR_LINE = "\r\x1b[2K"


class Console:
    """Writes to one stream. Only a terminal sees the passing states."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._passing = False

    def line(self, text: str) -> None:
        """A line that stays."""
        self._write(text + "\n")

    def state(self, name: str, text: str) -> None:
        """The line of a service that stays."""
        self.line(_row(name, text))

    def passing_state(self, name: str, text: str) -> None:
        """The line of a service until the next one."""
        if self._stream.isatty():
            self._write(_row(name, text))
            self._passing = True

    def _write(self, text: str) -> None:
        # Endpoints and log lines are other people's text: no escape sequence of theirs reaches the terminal.
        text = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
        if self._passing:
            text = CLEAR_LINE + text
            self._passing = False
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # The terminal is gone. Stopping cleanly matters more than saying so.
            return


def _row(name: str, text: str) -> str:
    return f"  {name:<{NAME_WIDTH}} {text}"
