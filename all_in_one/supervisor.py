"""The life of the services: started one after the other, watched, stopped in the opposite order."""

from __future__ import annotations

import time
from pathlib import Path

from all_in_one.child_process import ChildProcess, describe_exit, last_lines
from all_in_one.console import Console
from all_in_one.interrupts import POLL_SECONDS, Interrupts
from all_in_one.services import Service

START_SECONDS = 60.0


class ServiceFailed(Exception):
    """A service could not start or ended by itself. The message says what, why, and what to do."""


class Supervisor:
    """Owns the child processes of one run. Belongs to the main thread."""

    def __init__(self, console: Console, interrupts: Interrupts, *, logs: Path) -> None:
        """Nothing runs yet. `logs` is an existing directory."""
        self._console = console
        self._interrupts = interrupts
        self._logs = logs
        self._running: list[tuple[Service, ChildProcess]] = []

    def log_of(self, name: str) -> Path:
        """The file that takes the outputs of a service."""
        return self._logs / f"{name}.log"

    def start(self, service: Service, *, limit_seconds: float = START_SECONDS) -> None:
        """Start a service and wait until it is ready.

        Raises:
            ServiceFailed: it cannot be started, ended though it is needed, or was not ready in time.
            StopWanted: a stop signal came first; the process belongs to `stop`.
        """
        self._console.passing_state(service.name, "starting ...")
        begin = time.monotonic()
        try:
            process = ChildProcess(
                service.command,
                environment=service.environment,
                directory=service.directory,
                log=self.log_of(service.name),
            )
        except OSError as error:
            raise ServiceFailed(f"{service.name} cannot be started: {error}\n{service.remedy}") from error
        self._running.append((service, process))

        def settled() -> bool:
            self._console.passing_state(service.name, f"starting ... {time.monotonic() - begin:.0f} s")
            return process.exit_code is not None or service.is_ready()

        in_time = self._interrupts.wait_until(settled, limit_seconds=limit_seconds)
        if process.exit_code is not None:
            self._report_end(service, process, "stopped while it started")
            return
        if not in_time:
            raise ServiceFailed(_explain(service, process, f"was not ready within {limit_seconds:.0f} s"))
        self._console.state(service.name, service.address)

    def check(self) -> None:
        """Look once after every service.

        Raises:
            ServiceFailed: one that is needed has ended.
        """
        for service, process in list(self._running):
            if process.exit_code is not None:
                self._report_end(service, process, "stopped unexpectedly")

    def _report_end(self, service: Service, process: ChildProcess, what: str) -> None:
        """One line about a process that has ended; ServiceFailed when the rest needs it."""
        if service.may_end and process.exit_code == 0:
            text = f"finished: {last_lines(process.log, count=1)}"
        elif service.without_it:
            text = f"{what}{_reason(process)}: {service.without_it}; see {process.log}"
        else:
            raise ServiceFailed(_explain(service, process, what))
        self._running.remove((service, process))
        self._console.state(service.name, text)

    def stop(self) -> None:
        """Stop every service, last started first, each within its bound; at once after a second signal."""
        while self._running:
            service, process = self._running[-1]
            self._stop_one(service, process)
            self._running.pop()

    def _stop_one(self, service: Service, process: ChildProcess) -> None:
        begin = time.monotonic()
        was_running = process.exit_code is None
        if was_running:
            self._console.passing_state(service.name, "stopping ...")
            process.ask_to_stop()
        while process.exit_code is None and not self._interrupts.kill_wanted:
            if time.monotonic() - begin > service.stop_seconds:
                break
            time.sleep(POLL_SECONDS)
        in_time = process.exit_code is not None
        process.kill()
        if was_running:
            self._console.state(service.name, "stopped" if in_time else "killed")


def _explain(service: Service, process: ChildProcess, what: str) -> str:
    return f"{service.name} {what}{_reason(process)}. {quoted(process.log)}\n{service.remedy}"


def _reason(process: ChildProcess) -> str:
    return "" if process.exit_code is None else f" ({describe_exit(process.exit_code)})"


def quoted(log: Path) -> str:
    """The end of a log for the terminal, under a line that names the file."""
    lines = last_lines(log) or "(nothing)"
    return "\n".join([f"The end of {log}:", *(f"    | {line}" for line in lines.splitlines())])
