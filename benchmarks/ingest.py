"""What the receiver costs: spans per second and core, beside raw `insert_many` of the very same documents.

A real mongod, real receivers in processes of their own, real protocols over loopback. Every trace is one
server span, some with a profile, and nine child spans, all with 20 attributes; small requests divide it.

**Raw** is the bound that MongoDB and its driver set: the documents that the receiver stored are read back and
inserted again into another database, with the same indexes and write concern and as many `insert_many` at a
time as there were requests in flight. Each of them takes what one request left: first its profiles, then its
child spans, then its records, as the store writes them. Nothing is received, parsed, checked or compressed
there; the documents lie ready as dictionaries. (The receiver may write requests that wait together; a program
that calls `insert_many` for each request does not.)

Sender, receiver and mongod share the machine, while raw has but one process beside mongod, and one receiver
uses one core. So there are two ratios: of the rates, and of the spans per second and core, where a core is
CPU time without the sender's (of receiver + mongod, and of the raw client + mongod). Both would be 1 if
receiving cost nothing; the goal for both is 0.6, and each is printed as met or MISSED.

Raw inserts keep two cores busy, so what two receiver processes reach (`RECEIVER_PROCESSES=2`) is as fair a
comparison as what one does: each line is measured with one receiver and with two. Both wait
for the journal, so what they reach depends on how many requests are in flight: few, as of one Collector,
or many.

    python benchmarks/ingest.py [--spans N] [--in-flight 8] [--receivers 1,2] [--protocols json] [--sizes 10]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

SPANS_PER_TRACE = 10
PROFILE_SHARE = 0.05
PROTOCOLS = ("grpc", "http", "json")
SPANS_PER_REQUEST = (1, 10, 100, 512)
MAX_REQUESTS = 3_000
JSON_SHARE = 0.25  # of the spans: they cost so much more that the rest would only take time
COLLECTIONS = ("profiles", "child_spans", "performance_records")
GOAL = 0.6  # of what raw inserts reach


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def profile_payload(seed: int) -> bytes:
    """A call tree of about 300 nodes, as a request of 250 ms leaves it."""
    from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode

    choose = random.Random(seed)
    builder = CallTreeBuilder()
    for _ in range(25):
        depth = choose.randrange(15, 45)
        builder.add(
            [f"function_{level}_{choose.randrange(2) if level > 12 else 0}" for level in range(depth)], 0.01
        )
    own = choose.randrange(5, 12)
    return encode(builder.build(lambda name: Frame(name, f"shop/{name}.py", 10, f"_{own}_" in name))).payload


def make_requests(spans: int, per_request: int) -> list[bytes]:
    """Serialised export requests that hold `spans` spans in all, with fresh ids."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    payloads = [profile_payload(seed) for seed in range(20)]
    choose = random.Random(spans + per_request)
    now = time.time_ns()

    def add_span(target, trace_id: bytes, span_id: bytes, parent: bytes, number: int) -> None:
        root = not parent
        span = target.add(
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=parent,
            name="GET /orders/<id>" if root else "SELECT",
            kind=Span.SPAN_KIND_SERVER if root else Span.SPAN_KIND_CLIENT,
            start_time_unix_nano=now - 200_000_000,
            end_time_unix_nano=now,
        )
        names = (
            ("http.method", "http.route", "http.target") if root else ("db.system", "db.statement", "db.name")
        )
        for name, value in zip(names, ("GET", "/orders/<id>", f"/orders/{number}"), strict=True):
            span.attributes.add(key=name).value.string_value = value
        for position in range(17):
            span.attributes.add(
                key=f"app.attribute.{position}"
            ).value.string_value = f"value {position} {number}"
        if root and choose.random() < PROFILE_SHARE:
            event = span.events.add(name="pyinstrument.profile", time_unix_nano=now)
            event.attributes.add(key="pyinstrument.format").value.int_value = 1
            event.attributes.add(key="pyinstrument.encoding").value.string_value = "zlib+json"
            event.attributes.add(key="pyinstrument.payload").value.bytes_value = choose.choice(payloads)

    requests: list[bytes] = []
    for numbers in batches(range(spans), per_request):
        request = ExportTraceServiceRequest()
        resource_spans = request.resource_spans.add()
        resource_spans.resource.attributes.add(key="service.name").value.string_value = "benchmark"
        target = resource_spans.scope_spans.add().spans
        trace_id, root_id = b"", b""
        for position, number in enumerate(numbers):
            span_id = choose.randbytes(8)
            if position % SPANS_PER_TRACE == 0:
                trace_id, root_id = choose.randbytes(16), span_id
                add_span(target, trace_id, span_id, b"", number)
            else:
                add_span(target, trace_id, span_id, root_id, number)
        requests.append(request.SerializeToString())
    return requests


def cpu_seconds(pid: int) -> float:
    """User and system CPU time of a process so far, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def as_json(request: bytes) -> bytes:
    """The same request in OTLP/JSON: ids in hexadecimal, everything else as protobuf's own mapping."""
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest.FromString(request)
    document = MessageToDict(message, use_integers_for_enums=True)
    for resource_spans, shown in zip(message.resource_spans, document["resourceSpans"], strict=True):
        for scope_spans, shown_scope in zip(resource_spans.scope_spans, shown["scopeSpans"], strict=True):
            for span, shown_span in zip(scope_spans.spans, shown_scope["spans"], strict=True):
                shown_span["traceId"], shown_span["spanId"] = span.trace_id.hex(), span.span_id.hex()
                if span.parent_span_id:
                    shown_span["parentSpanId"] = span.parent_span_id.hex()
    return json.dumps(document, separators=(",", ":")).encode()


Export = Callable[[bytes], Awaitable[None]]


@asynccontextmanager
async def grpc_connection(port: int) -> AsyncIterator[Export]:
    """A channel of its own; `export` raises when a request is not accepted as a whole."""
    import grpc

    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")

        async def export(request: bytes) -> None:
            answer = await call(request)
            assert answer == b"", answer

        yield export


@asynccontextmanager
async def http_connection(port: int, media_type: str) -> AsyncIterator[Export]:
    """HTTP/1.1 by hand: the sender shares the cores with what it measures, and libraries cost more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\nContent-Length: "

    async def export(request: bytes) -> None:
        writer.writelines([f"{head}{len(request)}\r\n\r\n".encode(), request])
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert answer.startswith(b"http/1.1 200"), answer
        length = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        assert body in (b"", b"{}"), body

    try:
        yield export
    finally:
        writer.close()
        await writer.wait_closed()


async def send(protocol: str, receivers: list[Receiver], requests: list[bytes], in_flight: int) -> None:
    """Export all requests with `in_flight` at a time, each on its own connection to one of the receivers."""
    waiting = iter(requests)

    async def sender(export: Export) -> None:
        for request in waiting:
            await export(request)

    async with AsyncExitStack() as connections:
        exports: list[Export] = []
        for number in range(in_flight):
            ports = receivers[number % len(receivers)].ports
            connection = (
                grpc_connection(ports["gRPC"])
                if protocol == "grpc"
                else http_connection(
                    ports["HTTP"], "application/json" if protocol == "json" else "application/x-protobuf"
                )
            )
            exports.append(await connections.enter_async_context(connection))
        await asyncio.gather(*(sender(export) for export in exports))


class Cost(NamedTuple):
    """Wall time, CPU time of the processes at work and of mongod: in seconds, or microseconds per span."""

    wall: float
    cpu: float
    mongod: float

    def per(self, spans: int) -> Cost:
        return Cost(*(seconds / spans * 1e6 for seconds in self))


class Stopwatch:
    """Measures until `stop`."""

    def __init__(self, pids: list[int], mongod_pid: int) -> None:
        self._pids, self._mongod_pid = pids, mongod_pid
        self._start = self._now()

    def _now(self) -> Cost:
        return Cost(time.perf_counter(), sum(map(cpu_seconds, self._pids)), cpu_seconds(self._mongod_pid))

    def stop(self) -> Cost:
        return Cost(*(now - start for now, start in zip(self._now(), self._start, strict=True)))


async def insert_raw(url: str, mongod_pid: int, source: str, requests: int, in_flight: int) -> Cost:
    """Insert the documents of database `source` again, as described above."""
    from pymongo import AsyncMongoClient, WriteConcern

    async with AsyncMongoClient(url) as client:
        stored = {name: await client[source][name].find().to_list() for name in COLLECTIONS}
        target = client.get_database(f"{source}_raw", write_concern=WriteConcern(w="majority", j=True))
        for name in COLLECTIONS:
            specifications = await (await client[source][name].list_indexes()).to_list()
            for index in specifications:
                if index["name"] != "_id_":
                    options = {k: v for k, v in index.items() if k not in ("key", "v", "ns")}
                    await target[name].create_index(list(index["key"].items()), **options)
        waiting = iter(range(requests))

        async def inserter() -> None:
            for number in waiting:
                for name, documents in stored.items():
                    first, last = (len(documents) * n // requests for n in (number, number + 1))
                    if first < last:
                        await target[name].insert_many(documents[first:last], ordered=False)

        # As many connections as will be needed, before the clock runs.
        await asyncio.gather(*(client.admin.command("ping") for _ in range(in_flight)))
        stopwatch = Stopwatch([os.getpid()], mongod_pid)
        await asyncio.gather(*(inserter() for _ in range(in_flight)))
        cost = stopwatch.stop()
        await client.drop_database(target.name)
        return cost


class Receiver(NamedTuple):
    """A running receiver: its process id, and its ports by protocol."""

    pid: int
    ports: dict[str, int]


@contextmanager
def running_receiver(url: str, database: str) -> Iterator[Receiver]:
    """A receiver in a process of its own."""
    environment = os.environ | {"MONGODB_URL": url, "MONGODB_DATABASE": database}
    environment |= {"OTLP_GRPC_PORT": "0", "OTLP_HTTP_PORT": "0"}
    receiver = subprocess.Popen(
        [sys.executable, "-m", "collector_receiver"], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert receiver.stderr is not None
    try:
        ports: dict[str, int] = {}
        for line in receiver.stderr:
            if " OTLP/" in line:
                protocol, _, address = line.partition("OTLP/")[2].partition(" on ")
                ports[protocol] = int(address.rsplit(":", 1)[1])
            if len(ports) == 2:
                break
        yield Receiver(receiver.pid, ports)
    finally:
        receiver.terminate()
        receiver.communicate(timeout=30)


class Line(NamedTuple):
    """One line of the table, and its two ratios to raw inserts."""

    text: str
    rate: float
    per_core: float


def verdict(met: bool) -> str:
    """How a ratio compares with the goal."""
    return "met" if met else "MISSED"


def measured_line(
    url: str, mongod_pid: int, protocol: str, spans: int, per_request: int, in_flight: int, processes: int
) -> Line:
    """Measures one line of the table."""
    spans = min(int(spans * (JSON_SHARE if protocol == "json" else 1)), MAX_REQUESTS * per_request)
    database = f"ingest_{protocol}_{per_request}_{processes}"
    encode = as_json if protocol == "json" else bytes
    with ExitStack() as stack:
        receivers = [stack.enter_context(running_receiver(url, database)) for _ in range(processes)]
        warm_up = [encode(request) for request in make_requests(max(200, 4 * per_request), per_request)]
        asyncio.run(send(protocol, receivers, warm_up, in_flight))
        requests = [encode(request) for request in make_requests(spans, per_request)]
        stopwatch = Stopwatch([receiver.pid for receiver in receivers], mongod_pid)
        sender = time.process_time()
        asyncio.run(send(protocol, receivers, requests, in_flight))
        cost, sender = stopwatch.stop(), time.process_time() - sender
    stored = spans + max(200, 4 * per_request)
    raw = asyncio.run(insert_raw(url, mongod_pid, database, len(warm_up) + len(requests), in_flight))
    cost, raw = cost.per(spans), raw.per(stored)
    rate = raw.wall / cost.wall
    per_core = (raw.cpu + raw.mongod) / (cost.cpu + cost.mongod)
    text = (
        f"| {protocol} | {per_request} | {in_flight} | {processes} | {1e6 / cost.wall:,.0f} "
        f"| {1e6 / cost.cpu:,.0f} | {cost.cpu:.1f} | {cost.mongod:.1f} | {sender / spans * 1e6:.1f} "
        f"| {1e6 / raw.wall:,.0f} | {raw.cpu:.1f} | {raw.mongod:.1f} "
        f"| **{rate:.2f}** {verdict(rate >= GOAL)} | **{per_core:.2f}** {verdict(per_core >= GOAL)} |"
    )
    return Line(text, rate, per_core)


def print_verdicts(lines: list[Line]) -> None:
    """Whether every line reaches the goal."""
    for what, ratios in (
        ("rate", [line.rate for line in lines]),
        ("spans per second and core", [line.per_core for line in lines]),
    ):
        reached = sum(ratio >= GOAL for ratio in ratios)
        judged = verdict(reached == len(lines))
        print(f"- {judged:6} {what}: {reached} of {len(lines)} lines reach {GOAL} of raw")


def main() -> None:
    """Print the table, one line per protocol and request size."""
    from profile_store.embedded_mongodb import embedded_mongodb

    parser = argparse.ArgumentParser(description="receiver against raw insert_many")
    parser.add_argument("--spans", type=int, default=60_000)
    parser.add_argument("--in-flight", default="8,32")
    parser.add_argument("--receivers", default="1,2")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    parser.add_argument("--sizes", default=",".join(map(str, SPANS_PER_REQUEST)))
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-ingest-") as directory,
        embedded_mongodb(Path(directory)) as mongodb,
    ):
        print(
            f"\n{Path(__file__).name}: up to {options.spans:,} spans a line; CPU in microseconds per span\n"
        )
        print(
            "| protocol | spans per request | in flight | receivers | spans/s | per receiver core "
            "| receiver CPU | mongod CPU | sender CPU | raw: spans/s | raw: client CPU | raw: mongod CPU "
            "| rate / raw | per core / raw |"
        )
        print("|---|" + "---:|" * 13, flush=True)
        lines: list[Line] = []
        for protocol in options.protocols.split(","):
            asked = options.sizes, options.in_flight, options.receivers
            for size, in_flight, receivers in product(*(each.split(",") for each in asked)):
                sizes = options.spans, int(size), int(in_flight), int(receivers)
                lines.append(measured_line(mongodb.url, mongodb.pid, protocol, *sizes))
                print(lines[-1].text, flush=True)
        print()
        print_verdicts(lines)


if __name__ == "__main__":
    main()
