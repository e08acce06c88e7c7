"""`python -m all_in_one` as its user meets it."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

LIMIT_SECONDS = 90


def descendants(pid: int) -> set[int]:
    """The living processes below `pid`."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found, frontier = set(), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Run:
    """One `python -m all_in_one`, and what it has written so far."""

    def __init__(self, data: Path, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "all_in_one", "--data", str(data), *arguments],
            env={
                **os.environ,
                "HTTP_PORT": "0",
                "OTLP_GRPC_PORT": "0",
                "OTLP_HTTP_PORT": "0",
                "SHOP_PORT": "0",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """The first line from here on that holds `pattern`."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while line := self._lines.get(timeout=max(0.1, deadline - time.monotonic())):
            self.output += line
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"it ended without a line like {pattern}:\n{self.output}", pytrace=False)

    def end(self) -> int:
        """Its exit code; reads what is left of its output."""
        exit_code = self.process.wait(LIMIT_SECONDS)
        self._reader.join(LIMIT_SECONDS)
        while not self._lines.empty():
            self.output += self._lines.get()
        return exit_code


@pytest.fixture
def start(tmp_path, mongod_executable, monkeypatch):
    """Function (*arguments, **environment) -> Run on the same data directory; nothing outlives the test."""
    monkeypatch.delenv("MONGODB_URL", raising=False)
    runs: list[Run] = []

    def start(*arguments: str, **environment: str) -> Run:
        runs.append(Run(tmp_path / "data", *arguments, **environment))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.end()
        run.process.stdout.close()


def test_from_the_start_to_the_first_profile_and_back_to_nothing_twice(start, tmp_path) -> None:
    # Given a first start with the demo, until the first profile is announced
    first = start("--demo", "flask")
    web = first.wait_for_line(r"Open (http://127\.0\.0\.1:\d+) in a browser")[1]
    endpoint = first.wait_for_line("first profile received: (.*)")[1]
    link = first.wait_for_line(r"http://\S+/projects/\S+/records/[0-9a-f]{48}")[0]
    assert endpoint == "GET /products/<int:product_id>"
    assert link.startswith(web)
    with urllib.request.urlopen(link) as page:
        assert "data-flame" in page.read().decode()

    # When somebody starts a second one on the same data meanwhile, then it is told why not
    second = start("--demo", "flask")
    assert second.end() == 2
    assert f"in use by another all_in_one (process {first.process.pid})" in second.output
    assert "--data DIR" in second.output

    # When Ctrl-C is pressed, then everything stops in the opposite order, and no process is left
    processes = descendants(first.process.pid)
    assert len(processes) >= 8  # mongod, receiver, web, supplier, gunicorn and its two workers, visitors
    first.process.send_signal(signal.SIGINT)
    assert first.end() == 0
    stopped = re.findall(r"^  (\w+) +stopped$", first.output, re.MULTILINE)
    assert stopped == ["visitors", "shop", "supplier", "web", "receiver", "mongodb"]
    assert not any(map(is_alive, processes))

    # When it starts again, without the demo, then the first profile is still there
    again = start("--demo", "none")
    web = again.wait_for_line(r"Open (http://127\.0\.0\.1:\d+) in a browser")[1]
    again.wait_for_line("OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:")
    with urllib.request.urlopen(
        web + link.partition("/projects")[1] + link.partition("/projects")[2]
    ) as page:
        assert "data-flame" in page.read().decode()
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == 0


@pytest.mark.parametrize(
    ("demo", "endpoint"),
    [("django", r"GET /?products/<int:product_id>"), ("fastapi", r"GET /products/\{product_id\}")],
)
def test_the_other_demos_start_show_a_profile_and_stop(demo, endpoint, start) -> None:
    # Given a start with another shop
    run = start("--demo", demo)
    line = run.wait_for_line(r"shop +http://127\.0\.0\.1:\d+ \((.*)\)")
    assert demo in line[1].lower()

    # When its slow page was visited, then its first profile is announced
    assert re.fullmatch(endpoint, run.wait_for_line("first profile received: (.*)")[1])

    # And Ctrl-C stops everything
    processes = descendants(run.process.pid)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0
    assert "killed" not in run.output
    assert not any(map(is_alive, processes))


def test_nothing_outlives_a_killed_parent_and_the_next_start_works(start) -> None:
    # Given everything running
    run = start("--demo", "flask")
    run.wait_for_line("first profile received")
    processes = descendants(run.process.pid)

    # When the parent is killed without a chance to stop anything
    run.process.kill()
    run.end()

    # Then its processes end too
    wait_for(lambda: not any(map(is_alive, processes)))

    # And the next start on the same data works
    again = start("--demo", "none")
    again.wait_for_line("Open http://")
    again.process.send_signal(signal.SIGINT)
    assert again.end() == 0


@pytest.mark.parametrize(
    ("name", "command"), [("receiver", b"collector_receiver"), ("mongodb", b"mongod"), ("shop", b"gunicorn")]
)
def test_a_service_that_dies_is_named_and_everything_is_stopped(name, command, start) -> None:
    # Given everything running
    run = start("--demo", "flask")
    run.wait_for_line("Open http://")
    processes = descendants(run.process.pid)

    # When one service is killed
    def runs_command(pid: int) -> bool:
        return command in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"/", b"\0").split(b"\0")

    os.kill(min(filter(runs_command, processes)), signal.SIGKILL)

    # Then it is named with the end of its log, everything else is stopped, and the exit code says so
    assert run.end() == 1
    assert f"{name} stopped unexpectedly (killed by SIGKILL)" in run.output
    assert f"The end of {run.process.args[4]}" in run.output
    assert re.search(r"(start again|--demo none)", run.output)
    assert "killed\n" not in run.output
    wait_for(lambda: not any(map(is_alive, processes)))


def test_a_busy_port_is_named_before_anything_starts(start, tmp_path) -> None:
    # Given a port that somebody else uses
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        # When it is to be used
        run = start("--demo", "flask", SHOP_PORT=str(port))

        # Then the variable is named and what to do, and nothing was started
        assert run.end() == 2
    remedy = "set another one (0: any free port)"
    assert f"SHOP_PORT={port}: port {port} on 127.0.0.1 is in use; {remedy}" in run.output
    assert not (tmp_path / "data" / "mongodb").exists()


def test_ctrl_c_while_it_starts_stops_what_runs_already(start) -> None:
    # Given a start that has come as far as the database
    run = start("--demo", "flask")
    run.wait_for_line("mongodb +mongodb://")

    # When Ctrl-C is pressed
    processes = descendants(run.process.pid)
    run.process.send_signal(signal.SIGINT)

    # Then it ends cleanly
    assert run.end() == 0
    assert "mongodb    stopped" in run.output
    assert not any(map(is_alive, processes))


def test_a_second_ctrl_c_does_not_wait_for_a_hanging_database(start) -> None:
    # Given a database that hangs
    run = start("--demo", "none")
    run.wait_for_line("Open http://")
    processes = descendants(run.process.pid)
    database = next(pid for pid in processes if b"mongod\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(database, signal.SIGSTOP)

    # When Ctrl-C is pressed, and again when it waits
    run.process.send_signal(signal.SIGINT)
    run.wait_for_line("stopping")
    run.process.send_signal(signal.SIGINT)

    # Then it is told as killed, and nothing is left
    run.end()
    assert "mongodb    killed" in run.output
    wait_for(lambda: not any(map(is_alive, processes)))


def test_a_database_of_ones_own_is_used_instead_of_the_embedded_one(
    start, tmp_path, mongodb_url, mongodb_database
) -> None:
    # Given a MongoDB that somebody runs
    run = start("--demo", "none", MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)

    # When everything runs and is stopped, then no other was started, and its address is not shown
    run.wait_for_line("mongodb +the one that MONGODB_URL names")
    run.wait_for_line("Open http://")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0
    assert not (tmp_path / "data" / "mongodb").exists()
    assert mongodb_url not in run.output
    assert "the data are in the MongoDB that MONGODB_URL names" in run.output
    assert f"data in {tmp_path}" not in run.output


def test_a_database_of_ones_own_that_is_away_is_named_before_anything_starts(start, tmp_path) -> None:
    # Given an address where nothing listens
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]

    # When it is to be used
    run = start("--demo", "flask", MONGODB_URL=f"mongodb://root:hunter2@127.0.0.1:{port}/")

    # Then variable, host and remedy are named, no secret is, and nothing was started
    assert run.end() == 2
    assert f"MONGODB_URL: no MongoDB that accepts writes answers at 127.0.0.1:{port} within" in run.output
    assert "unset MONGODB_URL" in run.output
    assert "hunter2" not in run.output
    assert "the data are in" not in run.output
    assert "Traceback" not in run.output
    assert not list((tmp_path / "data" / "logs").iterdir())


def test_the_platform_outlives_the_demos_supplier(start) -> None:
    # Given everything running
    run = start("--demo", "flask")
    web = run.wait_for_line(r"Open (http://127\.0\.0\.1:\d+)")[1]
    supplier = next(
        pid
        for pid in descendants(run.process.pid)
        if b"supplier_stub.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )

    # When the supplier is killed, then one line says so
    os.kill(supplier, signal.SIGKILL)
    run.wait_for_line(r"supplier +stopped unexpectedly \(killed by SIGKILL\): the shop's availability pages")

    # And the rest goes on until it is stopped
    with urllib.request.urlopen(f"{web}/ready") as answer:
        assert answer.status == 200
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0


def test_the_shells_own_telemetry_settings_do_not_reach_the_demo(start) -> None:
    # Given a shell that is set up for somebody's own service
    run = start(
        *("--demo", "flask"),
        OTEL_SDK_DISABLED="true",
        OTEL_SERVICE_NAME="billing",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_PYINSTRUMENT_ENABLED="false",
        HTTP_PROXY="http://127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
    )

    # Then the demo's profiles arrive all the same
    run.wait_for_line("first profile received")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0
