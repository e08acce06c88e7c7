"""One child process: its log, its end with the parent's, and its stop within a bound.

Everything here is called from the main thread: Linux ties a child to the thread that made it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

SHOWN_LINES = 15
SHOWN_BYTES = 16_384

# Replaced by the command itself. Linux kills the child when the thread that made it ends, even by SIGKILL:
# prctl(PR_SET_PDEATHSIG = 1, SIGKILL). A program of its own, not `preexec_fn`: that would run our code in a
# fork of a process that has threads.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[3:])
"""


class ChildProcess:
    """A running command in a session of its own, so that Ctrl-C at the terminal reaches only the parent."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path
    ) -> None:
        """Start it. Both its outputs go to `log`; the log of the run before is kept beside it as `.1`.

        Raises:
            FileNotFoundError: there is no such command on the PATH of `environment`.
        """
        executable = shutil.which(command[0], path=environment.get("PATH"))
        if executable is None:
            raise FileNotFoundError(f"there is no command {command[0]}")
        self.log = log
        if log.exists():
            log.replace(log.with_name(log.name + ".1"))
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), executable]
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands, and no shell
                [*launcher, *command],
                env=dict(environment),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is also its session's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Send SIGTERM. A process that is gone already is fine."""
        self._process.terminate()

    def kill(self) -> None:
        """End it and whatever is left of its session, at once, and wait for it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def last_lines(log: Path, *, count: int = SHOWN_LINES) -> str:
    """The end of a log file; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - SHOWN_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-count:])


def describe_exit(exit_code: int) -> str:
    """What an exit code says, in words: "exit code 3", "killed by SIGKILL"."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
