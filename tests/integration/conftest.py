"""Processes that several integration tests need: a standard OpenTelemetry Collector."""

import http.client
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.free_ports import find_free_ports

REPOSITORY = Path(__file__).parents[2]
COLLECTOR_CONFIG = REPOSITORY / "otel-collector.yaml"
BUILD_COLLECTOR = REPOSITORY / "tests" / "collector" / "build.py"
FIRST_BUILD_SECONDS = 900
START_SECONDS = 30


def pytest_collection_modifyitems(items):
    """Whichever test comes first builds the Collector, and that takes minutes the first time."""
    for item in items:
        if "otelcol" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(FIRST_BUILD_SECONDS))


@pytest.fixture(scope="session")
def otelcol():
    """Path of the standard Collector's binary, built when it is not in the cache."""
    built = subprocess.run([sys.executable, BUILD_COLLECTOR], capture_output=True, text=True, check=False)
    if built.returncode and shutil.which("go") is None and os.environ.get("CI") != "true":
        pytest.skip("go is not on PATH: the standard Collector cannot be built")
    if built.returncode:
        pytest.fail(f"the standard Collector was not built:\n{built.stderr[-4000:]}", pytrace=False)
    return Path(built.stdout.splitlines()[-1])


class StandardCollector:
    """One Collector that runs the shipped otel-collector.yaml unchanged.

    It keeps its addresses and its queue directory over kill() and start(). `overrides` are further
    --config arguments, such as "yaml:receivers::otlp::protocols::grpc::max_recv_msg_size_mib: 4".
    """

    def __init__(self, binary, directory, receiver_endpoint, overrides=()):
        grpc, http_, health, metrics = find_free_ports(4)
        self.grpc_endpoint = f"127.0.0.1:{grpc}"
        self.http_endpoint = f"http://127.0.0.1:{http_}"
        self.queue_directory = directory / "queue"
        self._health_port = health
        self._log = directory / "collector.log"
        self._command = [binary, *(f"--config={c}" for c in (COLLECTOR_CONFIG, *overrides))]
        self._environment = os.environ | {
            "OTLP_GRPC_LISTEN": self.grpc_endpoint,
            "OTLP_HTTP_LISTEN": f"127.0.0.1:{http_}",
            "RECEIVER_ENDPOINT": receiver_endpoint,
            "HEALTH_LISTEN": f"127.0.0.1:{health}",
            "METRICS_PORT": str(metrics),
            "QUEUE_DIRECTORY": str(self.queue_directory),
        }
        self._process = None

    def start(self):
        """Starts the process and waits until it is healthy."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=self._log.parent, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"the Collector did not start:\n{self.log()[-4000:]}", pytrace=False)
            time.sleep(0.05)

    def _is_healthy(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._health_port, timeout=1)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self):
        """Ends the process as an operator would (SIGTERM); what is still queued stays on disk."""
        self._process.terminate()
        self._process.wait(START_SECONDS)

    def kill(self):
        """SIGKILL: nothing is flushed."""
        self._process.kill()
        self._process.wait()

    def log(self):
        return self._log.read_text(errors="replace")


@pytest.fixture
def start_collector(otelcol, tmp_path):
    """Function (receiver_endpoint, overrides=()) -> a healthy StandardCollector; ended after the test."""
    started = []

    def start(receiver_endpoint, overrides=()):
        directory = tmp_path / f"collector-{len(started)}"
        directory.mkdir()
        collector = StandardCollector(otelcol, directory, receiver_endpoint, overrides)
        collector.start()
        started.append(collector)
        return collector

    yield start
    for collector in started:
        collector.kill()


class ReceiverProcess:
    """`python -m collector_receiver` on free ports of 127.0.0.1."""

    def __init__(self, log, environment):
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "collector_receiver"],
                env=os.environ | {"OTLP_GRPC_PORT": "0", "OTLP_HTTP_PORT": "0"} | environment,
                stderr=output,
            )
        self.http, self.grpc = (self._address(name) for name in ("OTLP/HTTP", "OTLP/gRPC"))

    def _address(self, name):
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(rf"{name} on (\S+)\n", self.log())):
            assert self.process.poll() is None, f"the receiver ended:\n{self.log()[-4000:]}"
            assert time.monotonic() < deadline, f"the receiver did not start:\n{self.log()[-4000:]}"
            time.sleep(0.02)
        return found[1]

    def log(self):
        return self._log.read_text(errors="replace")

    def largest_memory_mib(self):
        """The largest resident memory so far (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    def stop(self):
        """Its exit code after SIGTERM."""
        self.process.terminate()
        return self.process.wait(START_SECONDS)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def start_process(tmp_path_factory):
    """Function (**environment) -> ReceiverProcess; ended after the last test."""
    started = []

    def start(**environment):
        log = tmp_path_factory.mktemp("receiver") / "receiver.log"
        started.append(ReceiverProcess(log, environment))
        return started[-1]

    yield start
    for receiver in started:
        receiver.kill()


@pytest.fixture
def start_receiver_process(start_process, mongodb_url, mongodb_database):
    """Function (**environment) -> ReceiverProcess on the database of this test; ended after it."""
    started = []

    def start(**environment):
        database = {"MONGODB_URL": mongodb_url, "MONGODB_DATABASE": mongodb_database}
        started.append(start_process(**database, **environment))
        return started[-1]

    yield start
    for receiver in started:
        receiver.kill()
