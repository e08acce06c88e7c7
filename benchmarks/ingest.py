"""What the receiver costs: spans per second and core, beside raw `insert_many` of the very same documents.

A real mongod, the real receiver in a process of its own, OTLP/gRPC over loopback. Every trace is one server
span, some with a profile, and nine child spans, all with 20 attributes. "Raw" takes the documents that the
receiver stored and inserts them again into another database, with the receiver's write concern and the same
number of inserts in flight: what MongoDB and its driver cost alone.

    python benchmarks/ingest.py [--spans 60000] [--in-flight 8]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

SPANS_PER_TRACE = 10
PROFILE_SHARE = 0.05
SPANS_PER_REQUEST = (10, 100, 512)


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; the last may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def profile_payload(seed: int) -> bytes:
    """A call tree of about 300 nodes, as a request of 200 ms leaves it."""
    from otel_pyinstrument.call_tree import CallTreeBuilder, Frame, encode

    choose = random.Random(seed)
    builder = CallTreeBuilder()
    for _ in range(200):
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


async def send(port: int, requests: list[bytes], in_flight: int) -> None:
    """Export all requests with `in_flight` at a time; raises on the first that is not accepted."""
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        waiting = iter(requests)

        async def sender() -> None:
            for request in waiting:
                answer = await export(request)
                assert answer == b"", answer

        await asyncio.gather(*(sender() for _ in range(in_flight)))


async def insert_raw(url: str, source: str, requests: int, in_flight: int) -> tuple[float, float]:
    """Insert the documents of database `source` again; returns (wall, client CPU) seconds."""
    from pymongo import AsyncMongoClient, WriteConcern

    async with AsyncMongoClient(url) as client:
        collections = ("profiles", "child_spans", "performance_records")
        stored = {name: await client[source][name].find().to_list() for name in collections}
        target = client.get_database(f"{source}_raw", write_concern=WriteConcern(w="majority", j=True))
        for name in collections:
            specifications = await (await client[source][name].list_indexes()).to_list()
            for index in specifications:
                if index["name"] != "_id_":
                    options = {k: v for k, v in index.items() if k not in ("key", "v", "ns")}
                    await target[name].create_index(list(index["key"].items()), **options)
        work = []
        for name, documents in stored.items():
            size = max(1, len(documents) // requests)
            work += [(name, batch) for batch in batches(documents, size)]
        waiting = iter(work)

        async def inserter() -> None:
            for name, documents in waiting:
                await target[name].insert_many(documents, ordered=False)

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(inserter() for _ in range(in_flight)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        await client.drop_database(target.name)
        return wall, cpu


def measure(url: str, mongod_pid: int, spans: int, per_request: int, in_flight: int) -> None:
    """One line of the table."""
    database = f"ingest_{per_request}"
    environment = os.environ | {"MONGODB_URL": url, "MONGODB_DATABASE": database}
    environment |= {"OTLP_GRPC_PORT": "0", "OTLP_HTTP_PORT": "0"}
    receiver = subprocess.Popen(
        [sys.executable, "-m", "collector_receiver"], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert receiver.stderr is not None
    try:
        port = next(int(line.rsplit(":", 1)[1]) for line in receiver.stderr if "OTLP/gRPC on" in line)
        asyncio.run(send(port, make_requests(2_000, per_request), in_flight))
        requests = make_requests(spans, per_request)
        before = cpu_seconds(receiver.pid), cpu_seconds(mongod_pid), time.perf_counter()
        asyncio.run(send(port, requests, in_flight))
        wall = time.perf_counter() - before[2]
        cpu, mongod_cpu = cpu_seconds(receiver.pid) - before[0], cpu_seconds(mongod_pid) - before[1]
    finally:
        receiver.terminate()
        receiver.wait(30)
    raw_wall, raw_cpu = asyncio.run(insert_raw(url, database, len(requests), in_flight))
    print(
        f"| {per_request} | {spans / wall:.0f} | {cpu / spans * 1e6:.1f} | {spans / cpu:.0f} "
        f"| {mongod_cpu / spans * 1e6:.1f} | {spans / raw_wall:.0f} | {raw_cpu / spans * 1e6:.1f} "
        f"| {raw_wall / wall:.2f} |",
        flush=True,
    )


def main() -> None:
    """Print the table, one line per request size."""
    from profile_store.embedded_mongodb import embedded_mongodb

    parser = argparse.ArgumentParser(description="receiver against raw insert_many")
    parser.add_argument("--spans", type=int, default=60_000)
    parser.add_argument("--in-flight", type=int, default=8)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-ingest-") as directory,
        embedded_mongodb(Path(directory)) as mongodb,
    ):
        print(f"\n{Path(__file__).name}: {options.spans} spans, {options.in_flight} requests in flight\n")
        print(
            "| spans per request | spans/s end to end | receiver CPU us/span | spans/s per receiver core "
            "| mongod CPU us/span | raw: spans/s | raw: client CPU us/span | end to end / raw |"
        )
        print("|---:|---:|---:|---:|---:|---:|---:|---:|")
        for per_request in SPANS_PER_REQUEST:
            measure(mongodb.url, mongodb.pid, options.spans, per_request, options.in_flight)


if __name__ == "__main__":
    main()
