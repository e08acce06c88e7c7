"""A load whose every item is accounted for: what was acknowledged is there once, what was refused is not."""

import asyncio
import http.client
import itertools
import os
import random
import selectors
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode
from profile_store import StoreSettings, open_store
from tests.free_ports import find_free_ports

SERVICE, OTHER_SERVICE = "shop", "thief"
SENDERS = 6
TRACES_PER_BATCH = 3
CHILDREN_PER_TRACE = 3
POISON_EVERY = 20
RESEND_EVERY = 7
PAUSE_SECONDS = 0.05
CALL_SECONDS = 30  # as the exporter of the shipped Collector configuration
PATIENCE_SECONDS = 240
READ_WHOLE = 60

# What a sender may see in times of trouble: "try again", of gRPC and of HTTP.
RETRYABLE = {"UNAVAILABLE", "503"}

RESPONSES = {"traces": ExportTraceServiceResponse, "logs": ExportLogsServiceResponse}


def a_payload():
    builder = CallTreeBuilder()
    builder.add(["view", "query"], 0.1)
    return encode(builder.build(lambda name: Frame(name, "shop/views.py", 1, True))).payload


PAYLOAD = a_payload()


class Trace:
    """One request: a server span and its child spans; its profile comes with the span, as a log or not."""

    def __init__(self, profile):
        self.trace_id = os.urandom(16)
        self.server_id = os.urandom(8)
        self.child_ids = [os.urandom(8) for _ in range(CHILDREN_PER_TRACE)]
        self.profile = profile
        self.times = {
            "start_time_unix_nano": time.time_ns() - 10**9,
            "end_time_unix_nano": time.time_ns() - 9 * 10**8,
        }

    @property
    def key(self):
        return self.trace_id + self.server_id

    def server_span(self):
        return Span(
            trace_id=self.trace_id,
            span_id=self.server_id,
            name="GET",
            kind=Span.SPAN_KIND_SERVER,
            **self.times,
        )

    def spans(self):
        server = self.server_span()
        if self.profile == "in span":
            add_profile(server.events.add(name="pyinstrument.profile").attributes)
        for span_id in self.child_ids:
            yield Span(
                trace_id=self.trace_id,
                span_id=span_id,
                parent_span_id=self.server_id,
                name="query",
                **self.times,
            )
        yield server

    def add_log_record_to(self, records):
        record = records.add(
            event_name="pyinstrument.profile",
            time_unix_nano=self.times["end_time_unix_nano"],
            trace_id=self.trace_id,
            span_id=self.server_id,
        )
        add_profile(record.attributes)


def add_profile(attributes):
    attributes.add(key="pyinstrument.format").value.int_value = 1
    attributes.add(key="pyinstrument.encoding").value.string_value = "zlib+json"
    attributes.add(key="pyinstrument.payload").value.bytes_value = PAYLOAD


class Batch:
    """A traces request and the logs request with its lone profiles. `poison` is the reason to expect."""

    def __init__(self, poison, taken):
        self.traces = [Trace(profile) for profile in ("in span", "as log", None)[:TRACES_PER_BATCH]]
        self.poison = poison
        self.started, self.acknowledged = time.monotonic(), 0.0
        request = ExportTraceServiceRequest()
        spans = self._resource(request.resource_spans, SERVICE).scope_spans.add().spans
        spans.extend(span for trace in self.traces for span in trace.spans())
        if poison == "invalid_trace_id":
            spans.add(trace_id=b"short", span_id=os.urandom(8), name="poison", **self.traces[0].times)
        if poison == "record_id_taken":
            stolen = self._resource(request.resource_spans, OTHER_SERVICE).scope_spans.add().spans
            stolen.append(taken.server_span())
        logs = ExportLogsServiceRequest()
        records = self._resource(logs.resource_logs, SERVICE).scope_logs.add().log_records
        for trace in self.traces:
            if trace.profile == "as log":
                trace.add_log_record_to(records)
        self.bodies = {"traces": request.SerializeToString(), "logs": logs.SerializeToString()}

    @staticmethod
    def _resource(resources, service):
        element = resources.add()
        element.resource.attributes.add(key="service.name").value.string_value = service
        return element

    def is_answered_rightly_by(self, signal, answer):
        """Whether exactly the poison was refused, and nothing else was even warned about."""
        partial = answer.partial_success
        if signal == "logs" or self.poison is None:
            return partial == type(partial)()  # some send an empty one
        return (partial.rejected_spans, partial.error_message) == (1, f"spans rejected: {self.poison} 1")


class GrpcCalls:
    """`send` returns the serialized answer, or the name of what came instead of one."""

    def __init__(self, address):
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._methods = {
            signal: self._channel.unary_unary(
                f"/opentelemetry.proto.collector.{name}.v1.{name.capitalize()}Service/Export"
            )
            for signal, name in (("traces", "trace"), ("logs", "logs"))
        }

    def send(self, signal, body):
        try:
            return self._methods[signal](body, timeout=CALL_SECONDS), ""
        except grpc.RpcError as error:
            return None, error.code().name

    def close(self):
        self._channel.close()


class HttpCalls:
    """The same over HTTP, on one connection."""

    def __init__(self, address):
        self._connection = http.client.HTTPConnection(address, timeout=CALL_SECONDS)

    def send(self, signal, body):
        try:
            headers = {"Content-Type": "application/x-protobuf"}
            self._connection.request("POST", f"/v1/{signal}", body, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return None, type(error).__name__
        return (answer, "") if response.status == 200 else (None, str(response.status))

    def close(self):
        self._connection.close()


class Sender(threading.Thread):
    """Sends batch after batch, each until it is acknowledged, as an exporter with a patient queue does."""

    def __init__(self, load, number, calls):
        super().__init__(name=f"sender {number}", daemon=True)
        self.batches = []  # those acknowledged
        self.refusals = 0
        self.error = None
        self._load = load
        self._calls = calls
        self._random = random.Random(number)
        self._beside = ThreadPoolExecutor(1)

    def run(self):
        try:
            for number in itertools.count(1):
                if self._load.ending.is_set():
                    break
                self._deliver(number)
                time.sleep(PAUSE_SECONDS)
        except Exception as error:
            self.error = error
        finally:
            self._beside.shutdown()
            for calls in self._calls:
                calls.close()

    def _deliver(self, number):
        batch = Batch(*self._poison(number))
        first, second = self._calls
        order = self._random.choice(["spans first", "profiles first", "together"])
        if order == "together":
            beside = self._beside.submit(self._repeat, batch, "logs", second)
            self._repeat(batch, "traces", first)
            beside.result()
        else:
            for signal in ("traces", "logs") if order == "spans first" else ("logs", "traces"):
                self._repeat(batch, signal, first if signal == "traces" else second)
        self._load.note_acknowledged(batch)
        if number % RESEND_EVERY == 0:
            # An exporter that missed the answer; the other protocol, where possible the other receiver.
            self._repeat(batch, "traces", second)
            self._repeat(batch, "logs", first)
        self.batches.append(batch)

    def _poison(self, number):
        if not self._load.poison or number % POISON_EVERY:
            return None, None
        if number % (2 * POISON_EVERY):
            return "invalid_trace_id", None
        return "record_id_taken", self._random.choice(self.batches).traces[0]

    def _repeat(self, batch, signal, calls):
        while not self._load.given_up.is_set():
            answer, refusal = calls.send(signal, batch.bodies[signal])
            if answer is not None:
                if not batch.is_answered_rightly_by(signal, RESPONSES[signal].FromString(answer)):
                    self._load.note_refusal("wrong answer")
                return
            self._load.note_refusal(refusal)
            self.refusals += 1
            time.sleep(0.1)


class Load:
    """Senders at work inside a `with` block. The last of `windows` is about the present.

    `targets` are pairs of "host:port" for gRPC and for HTTP; every sender speaks both protocols, to two
    targets if there are two. With `poison`, every 20th batch has a span that must be refused, alone.
    """

    def __init__(self, targets, *, poison):
        self.ending, self.given_up = threading.Event(), threading.Event()
        self.poison = poison
        self.windows = [Window("undisturbed")]
        self._lock = threading.Lock()
        self.senders = [
            Sender(self, number, self._calls(number, targets)) for number in range(1, SENDERS + 1)
        ]

    @staticmethod
    def _calls(number, targets):
        first, second = targets[number % len(targets)], targets[(number + 1) % len(targets)]
        if number % 4 < 2:
            return GrpcCalls(first[0]), HttpCalls(second[1])
        return HttpCalls(first[1]), GrpcCalls(second[0])

    def __enter__(self):
        for sender in self.senders:
            sender.start()
        return self

    def __exit__(self, failure, *_):
        if failure is not None:
            self.given_up.set()
        self.end()

    def end(self):
        """Ends when every batch under way is acknowledged."""
        self.ending.set()
        for sender in self.senders:
            sender.join(PATIENCE_SECONDS)

    def begin(self, event):
        """From now on everything belongs to `event`."""
        self.windows.append(Window(event))

    def note_refusal(self, what):
        """Counts an answer that was no success, or not the right one."""
        with self._lock:
            self.windows[-1].refusals[what] += 1

    def note_acknowledged(self, batch):
        with self._lock:
            batch.acknowledged = time.monotonic()
            self.windows[-1].batches.append(batch)

    def refusals(self):
        """All that was noted, by name."""
        return sum((window.refusals for window in self.windows), Counter())

    def check(self):
        """Raises what a sender raised."""
        for sender in self.senders:
            if sender.error is not None:
                raise sender.error
            assert self.ending.is_set() or sender.is_alive(), f"{sender.name} ended"

    def batches(self):
        return [batch for window in self.windows for batch in list(window.batches)]

    def wait_for_every_sender(self, more=2):
        """Waits until each sender had `more` batches acknowledged: none hangs in the past."""
        wanted = [len(sender.batches) + more for sender in self.senders]
        self.wait_until(
            lambda: all(
                len(sender.batches) >= count for sender, count in zip(self.senders, wanted, strict=True)
            ),
            "every sender is acknowledged",
        )

    def wait_for_refusals(self):
        """Waits until each sender was refused something."""
        before = [sender.refusals for sender in self.senders]
        self.wait_until(
            lambda: all(sender.refusals > count for sender, count in zip(self.senders, before, strict=True)),
            "every sender is refused",
        )

    def wait_until(self, condition, what):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            self.check()
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}; {self.refusals()}"
            time.sleep(0.02)


class Window:
    """A time in which one thing happened to the system, and what senders saw in it."""

    def __init__(self, event):
        self.event = event
        self.began = time.monotonic()
        self.refusals = Counter()
        self.batches = []

    def longest_gap_seconds(self):
        """The longest time without any acknowledgement."""
        moments = [self.began, *sorted(batch.acknowledged for batch in self.batches)]
        return max(after - before for before, after in itertools.pairwise([*moments, moments[-1]]))

    def slowest_batch_seconds(self):
        return max((batch.acknowledged - batch.started for batch in self.batches), default=0.0)


class Account:
    """What the database holds, against what the load was promised, by event.

    `lost`: acknowledged and not there, or there without what belongs to it. `doubled`: there more often than
    it was sent, or never sent.
    """

    def __init__(self, load, mongodb_url, database):
        load.check()
        assert not any(sender.is_alive() for sender in load.senders), "a batch was never acknowledged"
        self.lost, self.doubled = Counter(), Counter()
        with MongoClient(mongodb_url) as client:
            stored = client.get_database(database, read_concern=ReadConcern("majority"))
            owner = stored.projects.find_one({"name": SERVICE})["_id"]
            records = {
                record["_id"]: (record["has_profile"], record["project_id"] == owner)
                for record in stored.performance_records.find({}, {"has_profile": 1, "project_id": 1})
            }
            profiles = {profile["_id"] for profile in stored.profiles.find({}, {"_id": 1})}
            children = Counter()
            for chunk in stored.child_spans.find({}, {"span_count": 1}):
                children[chunk["_id"][:16]] += chunk["span_count"]
        self.project_id, self.records = str(owner), len(records)
        for window in load.windows:
            for trace in (trace for batch in window.batches for trace in batch.traces):
                self._settle(window.event, trace, records, profiles, children)
        # What is left was never sent.
        self.doubled["never sent"] = len(records) + len(profiles) + len(children)
        self.doubled = +self.doubled

    def _settle(self, event, trace, records, profiles, children):
        expected = (trace.profile is not None, True)
        self.lost[event] += records.pop(trace.key, None) != expected
        self.lost[event] += trace.profile is not None and trace.key not in profiles
        if trace.profile is not None:
            profiles.discard(trace.key)
        found = children.pop(trace.trace_id, 0)
        self.lost[event] += max(0, CHILDREN_PER_TRACE - found)
        self.doubled[event] += max(0, found - CHILDREN_PER_TRACE)


def print_table(load, account):
    """One line for each event. Only what OTLP calls retryable is "refused"; every other answer is "wrong"."""
    print("\nevent | times | batches | longest gap | slowest batch | refused | wrong | lost | doubled")
    for event in dict.fromkeys(window.event for window in load.windows):
        windows = [window for window in load.windows if window.event == event]
        refusals = sum((window.refusals for window in windows), Counter())
        refused = sum(refusals[name] for name in RETRYABLE)
        print(
            f"{event} | {len(windows)} | {sum(len(window.batches) for window in windows)}"
            f" | {max(window.longest_gap_seconds() for window in windows):.1f} s"
            f" | {max(window.slowest_batch_seconds() for window in windows):.1f} s"
            f" | {refused} | {refusals.total() - refused} | {account.lost[event]} | {account.doubled[event]}"
        )


def assert_some_read_back_whole(load, mongodb_url, database, project_id):
    """Reads some records as the record page does, with call tree and child spans."""
    traces = [trace for batch in load.batches() for trace in batch.traces]

    async def read():
        async with open_store(StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database)) as store:
            for trace in random.sample(traces, min(READ_WHOLE, len(traces))):
                detail = await store.record(project_id, trace.key.hex())
                assert sorted(span.span_id for span in detail.child_spans) == sorted(trace.child_ids)
                assert (detail.call_tree is not None) == (trace.profile is not None)

    asyncio.run(read())


def assert_exactly_once(load, mongodb_url, database):
    """Prints the table; then everything acknowledged is there once, and all refusals could be repeated."""
    account = Account(load, mongodb_url, database)
    print_table(load, account)
    assert account.records > 0
    assert (+account.lost, account.doubled) == ({}, {})
    assert set(load.refusals()) <= RETRYABLE
    assert_some_read_back_whole(load, mongodb_url, database, account.project_id)


class ReceiverProcess:
    """`python -m collector_receiver` on ports that it keeps over kill() and start()."""

    def __init__(self, ports, mongodb_url, database, log):
        grpc, http_ = ports
        self.address = f"127.0.0.1:{grpc}"
        self.http_address = f"127.0.0.1:{http_}"
        self._log = log
        self._environment = os.environ | {
            "BIND_HOST": "127.0.0.1",
            "OTLP_GRPC_PORT": str(grpc),
            "OTLP_HTTP_PORT": str(http_),
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


@pytest.fixture
def start_receiver(tmp_path):
    """Function (mongodb_url, database) -> a running receiver process, ended after the test."""
    started = []

    def start(mongodb_url, database):
        receiver = ReceiverProcess(find_free_ports(2), mongodb_url, database, tmp_path / "receiver.log")
        receiver.start()
        started.append(receiver)
        return receiver

    yield start
    for receiver in started:
        receiver.kill()


@pytest.fixture
def fail_over():
    """`Load` and `assert_exactly_once`, see there."""
    return SimpleNamespace(Load=Load, assert_exactly_once=assert_exactly_once)
