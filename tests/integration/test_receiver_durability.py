"""What the receiver acknowledged is there, whatever is killed meanwhile, and nothing is there twice."""

import asyncio
import contextlib
import os
import random
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pymongo import MongoClient

from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode
from profile_store import StoreSettings, open_store
from profile_store.embedded_mongodb import embedded_mongodb
from tests.free_ports import find_free_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

EXPORT_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SERVICE = "shop"
KILLS = 10
PLATFORM_KILLS = 12
OUTAGE_SECONDS = 10
SENDERS = 4
TRACES_PER_BATCH = 4
CHILDREN_PER_TRACE = 4
# What OTLP lets a client repeat.
RETRYABLE = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}


class ReceiverProcess:
    """`python -m collector_receiver` on one port that it keeps over kill() and start()."""

    def __init__(self, port, mongodb_url, database, log):
        self.address = f"127.0.0.1:{port}"
        self._log = log
        self._environment = os.environ | {
            "BIND_HOST": "127.0.0.1",
            "OTLP_GRPC_PORT": str(port),
            "OTLP_HTTP_PORT": "0",
            "INGEST_MODE": "open",
            "MONGODB_URL": mongodb_url,
            "MONGODB_DATABASE": database,
            "LOG_LEVEL": "INFO",
        }
        self._process = None

    def start(self):
        """Starts the process and waits until it accepts calls."""
        command = [sys.executable, "-m", "collector_receiver"]
        self._process = subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE)
        deadline, seen = time.monotonic() + 30, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stderr, selectors.EVENT_READ)
            while b"OTLP/gRPC on" not in seen:
                assert selector.select(max(0, deadline - time.monotonic())), f"not ready: {seen.decode()}"
                chunk = os.read(self._process.stderr.fileno(), 65_536)
                assert chunk, f"ended early: {seen.decode()}"
                seen += chunk
        threading.Thread(target=self._drain, args=(self._process.stderr, seen), daemon=True).start()

    def _drain(self, pipe, seen):
        with self._log.open("ab") as log, pipe:
            log.write(seen)
            for line in pipe:
                log.write(line)

    def kill(self):
        """SIGKILL: nothing is finished, nobody is told."""
        self._process.kill()
        self._process.wait()

    def stop(self):
        self._process.terminate()
        return self._process.wait(30)


class Platform:
    """`python -m all_in_one` on ports and data that it keeps over kill() and start()."""

    def __init__(self, ports, data, log):
        grpc_port, http_port, web_port = ports
        self.address = f"127.0.0.1:{grpc_port}"
        self._data, self._log = data, log
        self._environment = {key: value for key, value in os.environ.items() if key != "MONGODB_URL"} | {
            "OTLP_GRPC_PORT": str(grpc_port),
            "OTLP_HTTP_PORT": str(http_port),
            "HTTP_PORT": str(web_port),
        }
        self._process = None

    def start(self):
        """Starts everything and waits until it is ready."""
        command = [sys.executable, "-m", "all_in_one", "--data", self._data, "--demo", "none"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while "Open http://" not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def mongodb_url(self):
        return (
            f"mongodb://127.0.0.1:{(self._data / 'mongodb.port').read_text()}/?replicaSet=otel_pyinstrument"
        )

    def processes(self):
        """Everything that runs, the database first and the parent last."""
        children = [
            int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if self._is_child(stat)
        ]
        return [*sorted(children), self._process.pid]

    def _is_child(self, stat):
        try:
            return int(stat.read_text().rpartition(")")[2].split()[1]) == self._process.pid
        except (FileNotFoundError, ProcessLookupError):
            return False

    def kill_everything(self):
        """As the kernel does when a container is killed: nobody has a chance to stop anybody."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def kill_its_group(self):
        """As a supervisor does: the children have sessions of their own and see only its end."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self):
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(60)


class Trace:
    """One request of an application: a server span, with a profile every second time, and its child spans."""

    def __init__(self, payload):
        self.trace_id = os.urandom(16)
        self.server_id = os.urandom(8)
        self.child_ids = [os.urandom(8) for _ in range(CHILDREN_PER_TRACE)]
        self.payload = payload

    @property
    def record_id(self):
        return (self.trace_id + self.server_id).hex()

    def spans(self):
        start = time.time_ns() - 10**9
        times = {"start_time_unix_nano": start, "end_time_unix_nano": start + 10**8}
        server = Span(
            trace_id=self.trace_id, span_id=self.server_id, name="GET", kind=Span.SPAN_KIND_SERVER, **times
        )
        if self.payload:
            event = server.events.add(name="pyinstrument.profile")
            event.attributes.add(key="pyinstrument.format").value.int_value = 1
            event.attributes.add(key="pyinstrument.encoding").value.string_value = "zlib+json"
            event.attributes.add(key="pyinstrument.payload").value.bytes_value = self.payload
        children = [
            Span(
                trace_id=self.trace_id, span_id=span_id, parent_span_id=self.server_id, name="query", **times
            )
            for span_id in self.child_ids
        ]
        return [*children, server]


class Load:
    """Senders that repeat every batch until it is acknowledged, as an exporter with a patient queue does."""

    def __init__(self, address):
        self._address = address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._guarded_run) for _ in range(SENDERS)]
        builder = CallTreeBuilder()
        builder.add(["view", "query"], 0.1)
        self._payload = encode(builder.build(lambda name: Frame(name, "shop/views.py", 1, True))).payload
        self.acknowledged = []
        self.refusals = Counter()
        self.errors = []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        """Ends after the batches under way are acknowledged."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_acknowledged(self, more):
        """Waits until `more` batches were acknowledged from now on."""
        wanted, deadline = len(self.acknowledged) + more, time.monotonic() + 60
        while len(self.acknowledged) < wanted:
            assert not self.errors, self.errors
            assert time.monotonic() < deadline, f"nothing is acknowledged any more: {self.refusals}"
            time.sleep(0.01)

    def _guarded_run(self):
        try:
            self._run()
        except Exception as error:
            self.errors.append(error)

    def _run(self):
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        with grpc.insecure_channel(self._address, options=options) as channel:
            export = channel.unary_unary(EXPORT_TRACES)
            while not self._stop.is_set():
                batch = [Trace(self._payload if number % 2 else None) for number in range(TRACES_PER_BATCH)]
                request = ExportTraceServiceRequest()
                resource_spans = request.resource_spans.add()
                resource_spans.resource.attributes.add(key="service.name").value.string_value = SERVICE
                resource_spans.scope_spans.add().spans.extend(
                    span for trace in batch for span in trace.spans()
                )
                self._send(export, request.SerializeToString())
                self.acknowledged.append(batch)

    def _send(self, export, body):
        while True:
            try:
                answer = ExportTraceServiceResponse.FromString(export(body, timeout=10))
            except grpc.RpcError as error:
                self.refusals[error.code().name] += 1
                if error.code() not in RETRYABLE:
                    raise
                time.sleep(0.05)
            else:
                assert not answer.HasField("partial_success"), answer
                return


def assert_everything_is_there_once(load, mongodb_url, database):
    """Every acknowledged trace reads back complete, and the collections hold no span more than that."""
    assert not load.errors, load.errors
    traces = [trace for batch in load.acknowledged for trace in batch]

    async def read_all():
        async with open_store(StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database)) as store:
            project = await store.project_for_service(SERVICE)
            for trace in traces:
                detail = await store.record(project.id, trace.record_id)
                assert detail is not None, "an acknowledged record is missing"
                assert sorted(span.span_id for span in detail.child_spans) == sorted(trace.child_ids)
                assert (detail.call_tree is not None) == (trace.payload is not None)

    asyncio.run(read_all())
    with MongoClient(mongodb_url) as client:
        collections = client[database]
        records = collections["performance_records"].count_documents({})
        profiles = collections["profiles"].count_documents({})
        children = sum(
            chunk["span_count"] for chunk in collections["child_spans"].find({}, {"span_count": 1})
        )
    # Every batch was acknowledged in the end, so more than this would be doubles.
    assert records == len(traces)
    assert profiles == sum(trace.payload is not None for trace in traces)
    assert children == len(traces) * CHILDREN_PER_TRACE


@pytest.fixture
def start_receiver(tmp_path):
    """Function (mongodb_url, database) -> a running receiver process, ended after the test."""
    started = []

    def start(mongodb_url, database):
        (port,) = find_free_ports(1)
        receiver = ReceiverProcess(port, mongodb_url, database, tmp_path / "receiver.log")
        receiver.start()
        started.append(receiver)
        return receiver

    yield start
    for receiver in started:
        receiver.kill()


def test_no_acknowledged_span_is_lost_or_doubled_when_the_receiver_is_killed_ten_times(
    start_receiver, mongodb_url, mongodb_database
):
    # Given a receiver under load
    receiver = start_receiver(mongodb_url, mongodb_database)
    moments = random.Random(20_261_121)
    with Load(receiver.address) as load:
        # When it is killed again and again in the middle of its work
        for _ in range(KILLS):
            load.wait_for_acknowledged(20)
            time.sleep(moments.uniform(0, 0.05))
            receiver.kill()
            receiver.start()
        load.wait_for_acknowledged(20)

    # Then calls were cut off, and yet everything is there once
    assert load.refusals["UNAVAILABLE"] >= KILLS
    assert_everything_is_there_once(load, mongodb_url, mongodb_database)
    assert receiver.stop() == 0


def test_no_acknowledged_span_is_lost_or_doubled_when_the_database_is_away_for_ten_seconds(
    start_receiver, mongod_executable, tmp_path
):
    # Given a receiver under load on a database of its own, at a port that nobody else is given meanwhile
    data, database = tmp_path / "mongodb", "durability"
    data.mkdir()
    (data / "mongodb.port").write_text(str(find_free_ports(1)[0]))
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(embedded_mongodb(data))
        url = server.url
        receiver = start_receiver(url, database)
        with Load(receiver.address) as load:
            load.wait_for_acknowledged(50)

            # When the database is killed and stays away
            os.kill(server.pid, signal.SIGKILL)
            assert server.exited.wait(20)
            before = len(load.acknowledged)
            time.sleep(OUTAGE_SECONDS)
            during = len(load.acknowledged) - before
            servers.close()
            server = servers.enter_context(embedded_mongodb(data))
            assert server.url == url
            load.wait_for_acknowledged(50)

        # Then nothing was acknowledged meanwhile but what had been written before, one answer per sender
        assert during <= SENDERS
        assert set(load.refusals) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
        assert_everything_is_there_once(load, url, database)
        log = Path(tmp_path / "receiver.log").read_text()
        assert "Traceback" not in log
        assert len(re.findall("storage_unavailable", log)) <= 3, "refusals are logged at most once a minute"
        assert receiver.stop() == 0


def running(pids):
    """Their states, of those that run. One that has ended stays in /proc until init has taken note (Z, X)."""
    states = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return {pid: state for pid, state in states.items() if state not in "ZX"}


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_no_acknowledged_span_is_lost_or_doubled_when_the_whole_platform_is_killed(
    mongod_executable, tmp_path, full_scale
):
    # Given everything that one command starts, under load
    platform = Platform(find_free_ports(3), tmp_path / "data", tmp_path / "platform.log")
    moments = random.Random(20_261_121)
    platform.start()
    try:
        with Load(platform.address) as load:
            # When all of it is killed at once, or its group is, and it is started again at once
            for number in range(PLATFORM_KILLS if full_scale else 2):
                load.wait_for_acknowledged(20)
                time.sleep(moments.uniform(0, 0.2))
                before = platform.processes()
                assert len(before) == 4  # mongod, receiver, web server and the parent
                if number % 2:
                    platform.kill_its_group()
                else:
                    platform.kill_everything()
                platform.start()
                # Then nothing of the last one runs any more
                assert not running(before)
            load.wait_for_acknowledged(20)

        # And everything that was acknowledged is there once
        assert load.refusals["UNAVAILABLE"] > 0
        assert_everything_is_there_once(load, platform.mongodb_url(), "otel_pyinstrument")
        print(f"{len(load.acknowledged)} batches acknowledged over {number + 1} kills, none lost or doubled")
        assert platform.stop() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            platform.kill_everything()
