"""Watches the receiver's log for the first profile of each project; that line is part of its interface."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(
    r"first profile received: project=(?P<project>\S+) "
    r"record=(?P<record>[0-9a-f]{48}) endpoint=(?P<endpoint>.*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstProfile:
    """The first profile of a project since the receiver started."""

    project_id: str
    record_id: str
    endpoint: str

    @property
    def path(self) -> str:
        """The record's page, below the web interface's address."""
        return f"/projects/{self.project_id}/records/{self.record_id}"


class FirstProfileWatch:
    """Reads on in the log where it stopped the last time; a line that is still being written waits."""

    def __init__(self, log: Path) -> None:
        """Begin at the start of `log`, which need not exist yet."""
        self._log = log
        self._offset = 0

    def new(self) -> Iterator[FirstProfile]:
        """What was announced since the last call."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._offset)
                complete, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        self._offset += len(complete) + len(newline)
        for line in complete.decode("utf-8", "replace").splitlines():
            if found := LINE.search(line):
                yield FirstProfile(
                    project_id=found["project"], record_id=found["record"], endpoint=found["endpoint"].strip()
                )
