"""What statistics cost: rolling a million requests up, asking for them, and what everything takes on disk.

A real mongod. Records are spread over a day, many endpoints, two versions; some have a call tree of about 300
nodes. They are made by the very code that the receiver uses, written with majority, and then rolled up by the
code that the server runs. CPU time is that of the process, so other work on the machine matters little.

The last table compares what the store takes with the same records and call trees as nested JSON: one document
`{..., "function_calls": [{"function", "file", "line", "duration", "children": [...]}]}` for each request, as
plain text and as a MongoDB collection (which keeps trees only down to some 80 levels; deeper ones are cut).
Below it stands, for each reading of "ten times smaller", whether it is met.

    python benchmarks/rollup.py [--records 1000000] [--hours 24] [--endpoints 40] [--profiled 0.05]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

RECORDS_PER_BATCH = 1_000
TREES = 500  # neighbours on disk differ, so no page is compressed better than real ones
MAX_NESTED_DEPTH = 80
NESTED_SAMPLE = 2_000
TIMES_SMALLER = 10.0  # than nested JSON


def cpu_seconds(pid: int) -> float:
    """User and system CPU time of a process so far, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """CPU seconds of this process and of mongod, and wall seconds."""

    client: float = 0.0
    mongod: float = 0.0
    wall: float = 0.0


@contextmanager
def measured(mongod_pid: int) -> Iterator[Cost]:
    cost = Cost()
    before = time.process_time(), cpu_seconds(mongod_pid), time.perf_counter()
    yield cost
    cost.client = time.process_time() - before[0]
    cost.mongod = cpu_seconds(mongod_pid) - before[1]
    cost.wall = time.perf_counter() - before[2]


def make_trees() -> list[Any]:
    """Call trees of some 300 nodes and up to 45 levels: 200 samples of a request along a dozen paths."""
    from otel_pyinstrument.call_tree import CallTreeBuilder, Frame

    trees = []
    for seed in range(TREES):
        choose = random.Random(seed)
        paths = []
        for path in range(12):
            shared, depth = choose.randrange(5, 25), choose.randrange(30, 45)
            names = [f"function_{level}" for level in range(shared)]
            paths.append([*names, *(f"branch_{choose.randrange(40)}_{path}" for _ in range(shared, depth))])
        builder = CallTreeBuilder()
        for _ in range(200):
            builder.add(choose.choice(paths), choose.uniform(0.0005, 0.0015))
        trees.append(builder.build(lambda name: Frame(name, f"shop/{name[:9]}.py", 10, "_7_" in name)))
    return trees


def make_batches(
    project_id: str, options: argparse.Namespace, start: datetime, trees: list[Any]
) -> Iterator[Any]:
    """Batches of records in the order of time, with the facts that the receiver takes from a call tree."""
    from otel_pyinstrument.call_tree import encode
    from profile_store.hot_functions import hot_function_facts
    from profile_store.model import (
        IncomingBatch,
        IncomingRecord,
        ProfileFacts,
        Record,
    )

    profiles = []
    for tree in trees:
        hot = hot_function_facts(tree)
        facts = ProfileFacts(
            sample_count=tree.sample_count,
            node_count=tree.node_count,
            interval=0.01,
            duration=tree.duration_us / 1e6,
            cpu_time=0.1,
            reason="rate",
            truncated=False,
            interrupted=False,
        )
        profiles.append((encode(tree).payload, facts, hot))
    choose = random.Random(options.records)
    step = timedelta(hours=options.hours) / options.records
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    attributes = {f"app.attribute.{n}": f"value {n}" for n in range(8)} | {
        "http.request.method": "GET",
        "url.path": "/orders/17",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "server.address": "shop.example",
        "user_agent.original": "Mozilla/5.0 (X11; Linux x86_64)",
        "client.address": "10.1.2.3",
    }
    resource = {
        "service.name": "shop",
        "host.name": "web-1",
        "process.pid": 4711,
        "telemetry.sdk.language": "python",
    }
    for first in range(0, options.records, RECORDS_PER_BATCH):
        items = []
        for number in range(first, min(first + RECORDS_PER_BATCH, options.records)):
            timestamp = start + number * step
            endpoint = int(options.endpoints * choose.random() ** 2)
            failed = choose.random() < 0.01
            record = Record(
                project_id=project_id,
                trace_id=choose.randbytes(16),
                span_id=choose.randbytes(8),
                parent_span_id=None,
                endpoint=f"GET /shop/section-{endpoint}/<id>",
                method="GET",
                path=f"/shop/section-{endpoint}/{number}",
                status_code=503 if failed else 200,
                failed=failed,
                duration=choose.lognormvariate(-2.5, 0.8),
                timestamp=timestamp,
                start_time_unix_nano=(timestamp - epoch) // timedelta(microseconds=1) * 1_000,
                version="1.2.0" if number > options.records // 2 else "1.1.0",
                environment="production",
                service="shop",
                attributes=attributes,
                resource=resource,
            )
            payload = None
            if choose.random() < options.profiled:
                payload, facts, hot = choose.choice(profiles)
                record = replace(record, profile=facts, hot_functions=hot)
            items.append(IncomingRecord(record=record, payload=payload))
        yield IncomingBatch(records=items)


def nested_calls(tree: Any) -> list[dict[str, Any]]:
    """The call tree as nested objects, cut where MongoDB would refuse it."""
    depths, totals = tree.depth(), tree.total_us()
    nodes: list[dict[str, Any]] = []
    for node, parent in enumerate(tree.parent):
        frame = tree.frames[tree.frame[node]]
        nodes.append(
            {
                "function": frame.function,
                "module": frame.module,
                "file": frame.file,
                "line": frame.line,
                "duration": totals[node] / 1e6,
                "self_duration": tree.self_us[node] / 1e6,
                "calls_count": tree.samples[node],
                "children": [],
            }
        )
        if parent >= 0 and depths[node] <= MAX_NESTED_DEPTH:
            nodes[parent]["children"].append(nodes[node])
    return nodes[:1]


async def roll_everything_up(store: Any) -> tuple[int, int]:
    """Until no mark is left; (minutes, hours of trees)."""
    minutes = trees = 0
    while True:
        step = await store.roll_up(max_minutes=60)
        for failure in step.failures:
            raise failure.error
        minutes += step.minutes
        trees += step.trees
        if not (step.waiting or step.minutes or step.trees or step.settling):
            return minutes, trees
        if not (step.waiting or step.minutes or step.trees):
            await asyncio.sleep(0.5)


def print_costs(records: int, costs: dict[str, Cost]) -> None:
    print("| step | client CPU s per million | mongod CPU s per million | wall s |")
    print("|---|---:|---:|---:|")
    for name, cost in costs.items():
        million = 1_000_000 / records
        print(f"| {name} | {cost.client * million:.1f} | {cost.mongod * million:.1f} | {cost.wall:.1f} |")


async def print_questions(store: Any, project_id: str, start: datetime, hours: int) -> None:
    """What questions cost, whatever the number of requests."""
    from profile_store.rollups.answers import RequestFilter

    whole = RequestFilter(project_id=project_id, start=start, end=start + timedelta(hours=hours, minutes=1))
    busiest = next(iter((await store.statistics(whole, group_by="endpoint")).groups))
    endpoint = replace(whole, endpoint=busiest)
    questions = {
        f"all {hours} hours": lambda: store.statistics(whole),
        "the same by endpoint": lambda: store.statistics(whole, group_by="endpoint"),
        "one endpoint by version": lambda: store.statistics(endpoint, group_by="version"),
        f"series, {hours} points": lambda: store.series(whole, timedelta(hours=1)),
        f"series, {12 * hours} points": lambda: store.series(whole, timedelta(minutes=5)),
        f"series of one endpoint, {12 * hours} points": lambda: store.series(endpoint, timedelta(minutes=5)),
        "merged call tree of one endpoint": lambda: store.merged_call_tree(endpoint),
        "hot functions of all endpoints": lambda: store.hot_functions(whole),
        "project_statistics": lambda: store.project_statistics(project_id),
    }
    print("\n| question | ms |\n|---|---:|")
    for name, ask in questions.items():
        times = []
        for _ in range(3):
            began = time.perf_counter()
            await ask()
            times.append(time.perf_counter() - began)
        print(f"| {name} | {sorted(times)[1] * 1e3:.1f} |")


def print_storage(url: str, database: str, records: int, trees: list[Any]) -> None:
    """Bytes on disk per record and per profile, beside nested documents of the same content."""
    from pymongo import MongoClient

    with MongoClient[dict[str, Any]](url) as client:
        client.admin.command("fsync")
        source = client[database]

        def statistics_of(name: str) -> tuple[int, int, int]:
            found = source.command("collStats", name)
            return found["count"], found["storageSize"], found["totalIndexSize"]

        print("\n| collection | documents | bytes each, without indexes | indexes | per stored request |")
        print("|---|---:|---:|---:|---:|")
        names = ("performance_records", "profiles", "rollup_minutes", "rollup_hours", "rollup_trees")
        for name in names:
            count, size, indexes = statistics_of(name)
            each = max(1, count)
            per_request = (size + indexes) / records
            print(f"| {name} | {count} | {size / each:.0f} | {indexes / each:.0f} | {per_request:.1f} |")
        print_nested(source, client[f"{database}_nested"], trees)
        client.drop_database(f"{database}_nested")


def print_nested(source: Any, nested: Any, trees: list[Any]) -> None:
    """A sample of the profiled requests, as stored and as documents with nested call trees."""
    from profile_store.mongodb.attributes import unpack
    from profile_store.mongodb.documents import record_from_document

    documents = list(source.performance_records.find({"has_profile": True}).limit(NESTED_SAMPLE))
    calls = [nested_calls(tree) for tree in trees]
    text = {"record": 0, "profile": 0}
    for number, document in enumerate(documents):
        attributes, resource, _ = unpack(document["packed"])
        plain = {key: value for key, value in document.items() if key != "packed"}
        plain["attributes"] = {key.replace(".", "_"): value for key, value in attributes.items()}
        plain["resource"] = {key.replace(".", "_"): value for key, value in resource.items()}
        tree = {"_id": document["_id"], "function_calls": calls[number % len(calls)]}
        nested.record.insert_one(plain)
        nested.profile.insert_one(tree)
        record_id = record_from_document(document).id
        text["record"] += len(json.dumps({**plain, "_id": record_id}, default=str))
        text["profile"] += len(json.dumps({**tree, "_id": record_id}))
    keys = [document["_id"] for document in documents]
    for name, origin in (("own_record", "performance_records"), ("own_profile", "profiles")):
        nested[name].insert_many(source[origin].find({"_id": {"$in": keys}}))
    nested.client.admin.command("fsync")
    count = max(1, len(documents))
    nodes = sum(tree.node_count for tree in trees) / len(trees)
    print(f"\n{count} profiled requests with {nodes:.0f} nodes on average: bytes each, without indexes\n")
    print("| | stored: BSON | on disk | nested: JSON | BSON | on disk | JSON / stored BSON | disk / disk |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    each: dict[str, list[float]] = {}
    for name in ("record", "profile"):
        own, other = nested.command("collStats", f"own_{name}"), nested.command("collStats", name)
        sizes = [own["size"], own["storageSize"], text[name], other["size"], other["storageSize"]]
        each[name] = [size / count for size in sizes]
    each["both"] = [sum(sizes) for sizes in zip(*each.values(), strict=True)]
    for name, sizes in each.items():
        print(
            f"| {name} |",
            " | ".join([*map("{:.0f}".format, sizes), *map("{:.1f}".format, ratios(sizes))]),
            "|",
        )
    print(f"\nnested takes {TIMES_SMALLER:.0f} times as much as what is stored:")
    for name, sizes in each.items():
        for what, ratio in zip(("JSON / stored BSON", "disk / disk"), ratios(sizes), strict=True):
            print(f"- {'met   ' if ratio >= TIMES_SMALLER else 'MISSED'} {name}, {what}: {ratio:.1f}")


def ratios(sizes: list[float]) -> tuple[float, float]:
    """Nested JSON to stored BSON, and both collections on disk, of a line of the last table."""
    return sizes[2] / sizes[0], sizes[4] / sizes[1]


async def run(url: str, mongod_pid: int, options: argparse.Namespace) -> None:
    """Write, roll up, correct one percent, ask."""
    from profile_store import StoreSettings, open_store

    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=options.hours)
    trees = make_trees()
    costs: dict[str, Cost] = {}
    async with open_store(StoreSettings(MONGODB_URL=url, MONGODB_DATABASE="rollup")) as store:
        project_id = (await store.project_for_service("shop")).id
        late: list[Any] = []
        with measured(mongod_pid) as costs["write, with marks"]:
            for number, batch in enumerate(make_batches(project_id, options, start, trees)):
                if number % 100 == 50:
                    late.append(batch)
                else:
                    await store.write(batch)
        with measured(mongod_pid) as costs["roll up"]:
            minutes, hours = await roll_everything_up(store)
        rolled = f"{minutes} minutes and the call trees of {hours} hours"
        for batch in late:
            await store.write(batch)
        with measured(mongod_pid) as costs["correct 1 % that came late"]:
            await roll_everything_up(store)
        print(f"\nrolled up: {rolled}\n")
        print_costs(options.records, costs)
        await print_questions(store, project_id, start, options.hours)
    print_storage(url, "rollup", options.records, trees)


def main() -> None:
    """Print the tables."""
    from profile_store.embedded_mongodb import embedded_mongodb

    parser = argparse.ArgumentParser(description="the cost of statistics")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--hours", type=int, default=24, help="over which the requests are spread")
    parser.add_argument("--endpoints", type=int, default=40)
    parser.add_argument("--profiled", type=float, default=0.05, help="share of requests with a call tree")
    options = parser.parse_args()
    if options.records < RECORDS_PER_BATCH:
        sys.exit(f"--records: at least {RECORDS_PER_BATCH}")
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-rollup-") as directory,
        embedded_mongodb(Path(directory)) as mongodb,
    ):
        print(f"\n{Path(__file__).name}: {options.records:,} requests in {options.hours} hours,")
        print(f"{options.endpoints} endpoints, {options.profiled:.0%} with a call tree of 300 nodes")
        asyncio.run(run(mongodb.url, mongodb.pid, options))


if __name__ == "__main__":
    main()
