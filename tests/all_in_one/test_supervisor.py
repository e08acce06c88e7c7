"""The life of services, with tiny real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from all_in_one.console import CLEAR_LINE, Console
from all_in_one.interrupts import StopWanted
from all_in_one.services import Service
from all_in_one.supervisor import ServiceFailed, Supervisor

WAITS = "import signal; print('up', flush=True); signal.pause()"
IGNORES_SIGTERM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def start_supervisor(interrupts, tmp_path):
    """Function (console) -> Supervisor; its services are stopped after the test."""
    (tmp_path / "logs").mkdir()
    with ExitStack() as stops:

        def start(console: Console) -> Supervisor:
            supervisor = Supervisor(console, interrupts, logs=tmp_path / "logs")
            stops.callback(supervisor.stop)
            return supervisor

        yield start


@pytest.fixture
def supervisor(start_supervisor, console):
    return start_supervisor(console)


def python(name: str, code: str, log_directory: Path, **more) -> Service:
    """A service that runs `code`, ready once it has written something."""
    log = log_directory / "logs" / f"{name}.log"
    ready = {"is_ready": lambda: log.exists() and log.stat().st_size > 0}
    return Service(
        name=name,
        command=[sys.executable, "-c", code],
        environment=dict(os.environ),
        address=f"address of {name}",
        remedy="Do this.",
        **(ready | more),
    )


def has_ended(pid: int) -> bool:
    """Whether a process that is not our child is gone, or waits for somebody to read its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_service_is_announced_with_its_address_once_it_is_ready(supervisor, output, tmp_path) -> None:
    supervisor.start(python("receiver", WAITS, tmp_path))

    assert output.getvalue().splitlines() == ["  receiver   address of receiver"]


def test_a_terminal_sees_how_long_a_service_has_been_starting_and_that_it_is_stopping(
    start_supervisor, terminal, tmp_path
) -> None:
    # Given a service that is not ready before the terminal has shown a second of waiting
    supervisor = start_supervisor(Console(terminal))
    waited = {"is_ready": lambda: re.search(r"starting \.\.\. [1-9]\d* s", terminal.getvalue()) is not None}

    # When it is started and stopped
    supervisor.start(python("web", WAITS, tmp_path, **waited), limit_seconds=20)
    supervisor.stop()

    # Then there was a line for it from the first moment on, each in the place of the one before
    shown = [line.strip() for line in terminal.getvalue().replace(CLEAR_LINE, "\n").splitlines()]
    assert shown[0] == "web        starting ..."
    assert re.fullmatch(r"web        starting \.\.\. \d+ s", shown[1])
    assert shown[-3:] == ["web        address of web", "web        stopping ...", "web        stopped"]


def test_services_stop_in_the_opposite_order(supervisor, output, tmp_path) -> None:
    # Given two services, in this order
    supervisor.start(python("first", WAITS, tmp_path))
    supervisor.start(python("second", WAITS, tmp_path))

    # When everything is stopped
    supervisor.stop()

    # Then the last started is stopped first, and each says so
    assert [line.split() for line in output.getvalue().splitlines()[2:]] == [
        ["second", "stopped"],
        ["first", "stopped"],
    ]


def test_a_service_that_dies_while_it_starts_is_named_with_its_last_lines(supervisor, tmp_path) -> None:
    code = "import sys; print('no such table'); sys.exit(7)"

    with pytest.raises(ServiceFailed) as failure:
        supervisor.start(python("web", code, tmp_path, is_ready=lambda: False))

    message = str(failure.value)
    assert message.startswith("web stopped while it started (exit code 7).")
    assert f"The end of {tmp_path / 'logs' / 'web.log'}:\n    | no such table\nDo this." in message


def test_a_service_that_dies_later_is_named_with_the_signal(supervisor, tmp_path) -> None:
    # Given a running service
    code = "import os; print(os.getpid(), flush=True); import signal; signal.pause()"
    supervisor.start(python("receiver", code, tmp_path))
    supervisor.check()

    # When something kills it
    os.kill(int(supervisor.log_of("receiver").read_text()), signal.SIGKILL)

    # Then the next look names it and how it ended
    def seen() -> str:
        try:
            supervisor.check()
        except ServiceFailed as failure:
            return str(failure)
        return ""

    assert wait_for(lambda: seen().startswith("receiver stopped unexpectedly (killed by SIGKILL)"))


def test_a_service_that_is_not_ready_in_time_is_named_and_stopped(supervisor, output, tmp_path) -> None:
    with pytest.raises(ServiceFailed, match=r"shop was not ready within 0 s\. The end of .*shop\.log"):
        supervisor.start(python("shop", WAITS, tmp_path, is_ready=lambda: False), limit_seconds=0.3)

    supervisor.stop()
    assert "shop       stopped" in output.getvalue()


def test_a_missing_command_is_named_with_the_remedy(supervisor, tmp_path) -> None:
    service = Service(
        name="shop",
        command=["no-such-command"],
        environment={},
        address="",
        remedy="Install it.",
        directory=tmp_path,
    )

    with pytest.raises(ServiceFailed) as failure:
        supervisor.start(service)

    assert str(failure.value) == "shop cannot be started: there is no command no-such-command\nInstall it."


def test_a_stop_signal_ends_the_waiting_for_a_service(supervisor, tmp_path) -> None:
    # Given a service that never becomes ready
    def ready() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    # When SIGTERM arrives meanwhile, then the waiting ends long before its limit
    with pytest.raises(StopWanted):
        supervisor.start(python("web", WAITS, tmp_path, is_ready=ready))


def test_a_service_that_may_end_is_reported_with_its_last_line(supervisor, output, tmp_path) -> None:
    # Given a service that finishes by itself, and another one
    supervisor.start(python("visitors", "print('one'); print('10 requests')", tmp_path, may_end=True))
    supervisor.start(python("receiver", WAITS, tmp_path))

    # When it has finished
    def reported() -> bool:
        supervisor.check()
        return "finished" in output.getvalue()

    # Then it is no failure, and told once
    assert wait_for(reported)
    supervisor.check()
    assert output.getvalue().count("visitors   finished: 10 requests") == 1


def test_a_service_that_may_end_but_fails_is_a_failure(supervisor, tmp_path) -> None:
    visitors = python("visitors", "print(1, flush=True); raise SystemExit(3)", tmp_path, may_end=True)

    def start_and_look() -> None:
        supervisor.start(visitors)
        wait_for(supervisor.check)

    # Whether the start or a later look sees it first
    with pytest.raises(ServiceFailed, match=r"^visitors stopped .*\(exit code 3\)"):
        start_and_look()


def test_the_end_of_a_service_that_is_not_needed_is_one_line(supervisor, output, tmp_path) -> None:
    # Given a service that the rest can do without, and another one
    code = "import os; print(os.getpid(), flush=True); import signal; signal.pause()"
    supervisor.start(python("supplier", code, tmp_path, without_it="one page fails"))
    supervisor.start(python("receiver", WAITS, tmp_path))

    # When something kills it
    os.kill(int(supervisor.log_of("supplier").read_text()), signal.SIGKILL)

    def reported() -> bool:
        supervisor.check()
        return "unexpectedly" in output.getvalue()

    # Then that is told once, and the rest goes on
    assert wait_for(reported)
    supervisor.check()
    assert output.getvalue().splitlines()[2:] == [
        "  supplier   stopped unexpectedly (killed by SIGKILL): one page fails;"
        f" see {supervisor.log_of('supplier')}"
    ]


def test_a_service_that_is_not_needed_may_fail_to_start(supervisor, output, tmp_path) -> None:
    code = "raise SystemExit(3)"

    supervisor.start(python("supplier", code, tmp_path, is_ready=lambda: False, without_it="one page fails"))

    assert "supplier   stopped while it started (exit code 3): one page fails" in output.getvalue()
    assert "address of supplier" not in output.getvalue()


def test_a_service_that_ignores_sigterm_is_killed_within_its_bound(supervisor, output, tmp_path) -> None:
    supervisor.start(python("receiver", IGNORES_SIGTERM, tmp_path, stop_seconds=0.3))

    supervisor.stop()

    assert "receiver   killed" in output.getvalue()


def test_a_second_stop_signal_does_not_wait_for_the_bound(supervisor, output, tmp_path) -> None:
    # Given a service that ignores SIGTERM and has a bound longer than this test may take
    supervisor.start(python("receiver", IGNORES_SIGTERM, tmp_path, stop_seconds=3_600))

    # When two stop signals came
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    supervisor.stop()

    # Then it is killed
    assert "receiver   killed" in output.getvalue()


def test_what_a_service_started_is_gone_after_the_stop(supervisor, tmp_path) -> None:
    # Given a service whose worker ignores SIGTERM
    code = f"""
import signal, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {IGNORES_SIGTERM!r}])
print(worker.pid, flush=True)
signal.pause()
"""
    supervisor.start(python("shop", code, tmp_path))
    log = supervisor.log_of("shop")
    assert wait_for(lambda: log.read_text().count("\n") == 2)
    worker = int(next(line for line in log.read_text().splitlines() if line != "up"))

    # When it is stopped
    supervisor.stop()

    # Then the worker is gone with it
    assert wait_for(lambda: has_ended(worker))


def test_ctrl_c_at_the_terminal_does_not_reach_the_services_first(supervisor, tmp_path) -> None:
    supervisor.start(
        python("web", "import os; print(os.getpgid(0), flush=True); import signal; signal.pause()", tmp_path)
    )

    assert int(supervisor.log_of("web").read_text()) != os.getpgid(0)


def test_the_log_of_the_run_before_is_kept(supervisor, tmp_path) -> None:
    # Given a log of an earlier run
    log = supervisor.log_of("web")
    log.write_text("yesterday\n")

    # When the service starts again
    supervisor.start(python("web", WAITS, tmp_path, is_ready=lambda: "up" in log.read_text()))

    # Then both are there
    assert (log.read_text(), log.with_name("web.log.1").read_text()) == ("up\n", "yesterday\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_services_do_not_outlive_a_killed_parent(tmp_path) -> None:
    # Given a parent that supervises a service
    code = f"""
import os, sys, time
from pathlib import Path
from all_in_one.child_process import ChildProcess
command = [sys.executable, "-c", {IGNORES_SIGTERM!r}]
log = Path({str(tmp_path / "log")!r})
child = ChildProcess(command, environment=os.environ, directory=Path("."), log=log)
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert wait_for(lambda: (tmp_path / "log").read_text() == "up\n")

        # When the parent is killed
        parent.kill()

    # Then the service is gone too
    assert wait_for(lambda: has_ended(child))
