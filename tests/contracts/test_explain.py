"""Which index answers each query of the store, as a real MongoDB says.

Every method of the contract runs once for each shape of its query. The server's own profiler writes down what
was asked, so a query that nobody listed here makes the test fail. Then `explain` says how it is answered: by
which index, without looking at keys or documents in vain, without sorting in memory. And the filter must
name what its collection is sharded by, so that a cluster asks only the shards that hold the project.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from profile_store import StoreSettings, open_store
from profile_store.contracts import Reader, Store, Writer
from profile_store.model import IncomingBatch, IncomingProfile, IncomingRecord, RecordQuery
from profile_store.mongodb.indexes import ROLLUPS
from profile_store.mongodb.sharding import SHARD_KEYS
from profile_store.rollups.answers import RequestFilter

pytestmark = pytest.mark.anyio

RECORDS_OF_THE_SHOP = 3_000
RECORDS_OF_OTHERS = 300
PAGE = 20
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
APPLICATION = "otel-pyinstrument"

# What `explain` takes of a command as the profiler wrote it down; the rest belongs to the session.
EXPLAINED = {
    "find": ("filter", "sort", "projection", "skip", "limit", "hint"),
    "aggregate": ("pipeline", "cursor", "hint", "allowDiskUse"),
    "findAndModify": ("query", "update", "fields", "new", "upsert", "sort"),
    "distinct": ("key", "query"),
    "update": ("updates",),
    "delete": ("deletes",),
}


@dataclass(frozen=True)
class Case:
    """One shape of a call. `method` names it in the contract.

    `plans`: "collection operation index" of everything that the server sees, no more and no less; "+SORT"
    when it sorts in memory.
    `filters` are those of RecordQuery. `asks_everywhere`: one of its queries may name no project.
    `reads_others`: it may read records that do not belong to the answer, within a limit of its own.
    `keys_each`: so many keys may be looked at for each document of the answer, where an index holds a filter
    behind its order.
    """

    name: str
    method: str
    call: Callable[[Store, SimpleNamespace], Awaitable[Any]]
    plans: set[str]
    filters: frozenset[str] = frozenset()
    asks_everywhere: bool = False
    reads_others: bool = False
    keys_each: int = 1


def listed(
    name: str, index: str, count_index: str = "", *, found: bool = True, keys_each: int = 1, **filters
) -> Case:
    """A record list with these filters: the count and, when something is `found`, the page."""
    plans = {f"performance_records aggregate {count_index or index}"}
    return Case(
        f"records: {name}",
        "records",
        lambda store, shop: store.records(RecordQuery(project_id=shop.id, page_size=PAGE, **filters)),
        plans | {f"performance_records find {index}"} if found else plans,
        filters=frozenset(filters) - {"page"},
        keys_each=keys_each,
    )


def window(
    shop: SimpleNamespace, *, ago: timedelta = timedelta(0), hours: int, **names: str
) -> RequestFilter:
    """So many hours that ended some time ago."""
    end = NOW - ago
    return RequestFilter(project_id=shop.id, start=end - hours * HOUR, end=end, **names)


# What a question about many requests asks where nothing is rolled up yet, and where everything is.
COUNTED = {
    "rollup_marks find mark",
    "rollup_minutes find bucket",
    "performance_records aggregate recent+SORT",
    "performance_records find profiled",
}
ROLLED_UP = {
    "rollup_marks find mark",
    "rollup_hours find bucket",
    "rollup_minutes find bucket",
    "performance_records aggregate recent+SORT",
}

CASES = [
    # Records, as the list and its filters ask for them
    listed("newest first", "recent"),
    listed("oldest first", "recent", sort="timestamp"),
    listed("slowest first", "slowest", "recent", sort="-duration"),
    listed("fastest first", "slowest", "recent", sort="duration"),
    listed("of an hour", "recent", start_time=NOW - 24 * HOUR, end_time=NOW - 23 * HOUR),
    listed("of an endpoint", "endpoint", endpoint="GET /page/7"),
    listed("of an endpoint and an hour", "endpoint", endpoint="GET /page/7", start_time=NOW - HOUR),
    listed("of a version", "version", version="1.0.3"),
    listed("failed", "failed", status="failed"),
    # The few that failed are stepped over in the index.
    listed("not failed", "recent", status="ok", keys_each=2),
    listed("of an error status", "unusual_status", status=503),
    listed("of a status that no record has", "unusual_status", status=302, found=False),
    listed("of an environment", "environment", environment="staging"),
    listed("of an environment that no record has", "environment", environment="nowhere", found=False),
    listed("of a method", "method", method="DELETE"),
    listed("of a method that no record has", "method", method="TRACE", found=False),
    listed(
        "of a rare environment and a version",
        "environment",
        environment="nowhere",
        version="1.0.3",
        found=False,
    ),
    listed("profiled", "profiled", profiled=True),
    listed("slow and slowest first", "slowest", sort="-duration", min_duration=0.9),
    # Of many slow ones the newest are found on the way through all, of a few all are read and sorted.
    listed("slow", "recent", "slowest", min_duration=0.9, keys_each=20),
    listed("very slow", "slowest+SORT", "slowest", min_duration=0.998),
    listed("a later page", "recent", page=5),
    # Projects: few, in a collection that is never sharded
    Case(
        "projects by name",
        "projects",
        lambda store, shop: store.projects(),
        # Counting all of them reads all of them; there are few.
        {"projects aggregate COLLSCAN", "projects find name"},
    ),
    Case(
        "projects of a status",
        "projects",
        lambda store, shop: store.projects(status="active"),
        {"projects aggregate COLLSCAN", "projects find name"},
    ),
    Case("project by id", "project", lambda s, shop: s.project(shop.id), {"projects find _id_"}),
    Case("project by key", "project", lambda s, shop: s.project(shop.key), {"projects find key_hash"}),
    Case(
        "projects that several keys may write to",
        "projects_for_keys",
        lambda s, shop: s.projects_for_keys([shop.key, "opk_unknown"]),
        {"projects find key_hash"},
    ),
    Case(
        "projects of several services",
        "projects_for_services",
        lambda s, shop: s.projects_for_services(["shop", "cart", "unknown"]),
        {"projects find name"},
    ),
    Case(
        "project of a known service",
        "project_for_service",
        lambda s, shop: s.project_for_service("shop"),
        {"projects find name"},
    ),
    Case(
        "project of a new service",
        "project_for_service",
        lambda s, shop: s.project_for_service(f"new {secrets.token_hex(4)}"),
        {"projects find name", "projects findAndModify name"},
    ),
    Case("new project", "create_project", lambda s, shop: s.create_project(secrets.token_hex(8)), set()),
    # One record
    Case(
        "record with call tree and child spans",
        "record",
        lambda s, shop: s.record(shop.id, shop.profiled),
        {
            "performance_records find _id_",
            "profiles find _id_",
            "child_spans find _id_",
        },
    ),
    Case(
        "call tree alone",
        "call_tree",
        lambda s, shop: s.call_tree(shop.id, shop.profiled),
        {"performance_records find _id_", "profiles find _id_"},
    ),
    # Numbers of the last day, and of an hour of it
    Case(
        "numbers",
        "project_statistics",
        lambda s, shop: s.project_statistics(shop.id),
        # Here everything waits to be rolled up, so the newest minutes are counted, and their groups sorted.
        COUNTED,
    ),
    Case(
        "endpoints",
        "endpoints",
        lambda s, shop: s.endpoints(shop.id),
        COUNTED,
    ),
    Case(
        "statistics of hours that wait, by version",
        "statistics",
        lambda s, shop: s.statistics(window(shop, hours=3, version="1.0.3"), group_by="version"),
        COUNTED,
    ),
    Case(
        "statistics of hours that are rolled up",
        "statistics",
        lambda s, shop: s.statistics(window(shop, ago=100 * HOUR, hours=10)),
        ROLLED_UP,
    ),
    Case(
        "series of hours that wait",
        "series",
        lambda s, shop: s.series(window(shop, hours=3, endpoint="GET /page/7"), HOUR),
        COUNTED,
    ),
    Case(
        "series of hours that are rolled up",
        "series",
        lambda s, shop: s.series(window(shop, ago=100 * HOUR, hours=10), HOUR),
        ROLLED_UP,
    ),
    Case(
        "merged call tree",
        "merged_call_tree",
        lambda s, shop: s.merged_call_tree(window(shop, hours=30, endpoint="GET /page/10", version="1.0.0")),
        {
            "rollup_marks find mark",
            "rollup_trees find bucket",
            "performance_records find profiled",
            "profiles find _id_",
        },
        # Of an hour that waits, the profiled records of all endpoints, for 2 seconds at most.
        reads_others=True,
    ),
    Case(
        "hot functions",
        "hot_functions",
        lambda s, shop: s.hot_functions(window(shop, hours=30)),
        {"rollup_trees find bucket"},
    ),
    Case(
        "versions",
        "versions",
        lambda s, shop: s.versions(shop.id),
        {"rollup_versions find last_seen", *(COUNTED - {"rollup_minutes find bucket"})},
    ),
    # Writing
    Case(
        "write records, profiles and child spans",
        "write",
        lambda s, shop: s.write(shop.fresh()),
        {
            "projects find _id_",
            "rollup_marks update mark",
            "projects update _id_",
            "profiles find _id_",
            "name_lists find _id_",
        },
    ),
    Case(
        "write the same again",
        "write",
        lambda s, shop: s.write(shop.written),
        {
            "projects find _id_",
            "rollup_marks update mark",
            "performance_records find _id_",
            "profiles find _id_",
            "child_spans find _id_",
            "name_lists find _id_",
        },
    ),
    Case(
        "write an id that another project holds",
        "write",
        lambda s, shop: s.write(shop.stolen()),
        {
            "projects find _id_",
            "performance_records find _id_",
            "name_lists find _id_",
        },
        asks_everywhere=True,
    ),
    Case(
        "write a profile whose record is there",
        "write",
        lambda s, shop: s.write(shop.late_profile()),
        {
            "projects find _id_",
            "rollup_marks update mark",
            "performance_records find _id_",
            "performance_records update _id_",
        },
    ),
]


@pytest.fixture(scope="module")
def database(mongodb_url: str) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        database = client[f"test_{secrets.token_hex(8)}"]
        yield database
        client.drop_database(database.name)


@pytest.fixture(scope="module")
def shop(database, mongodb_url: str, make) -> SimpleNamespace:
    """A busy project beside two others, and builders of what may be written to it."""
    return asyncio.run(fill(StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database.name), make))


async def fill(settings: StoreSettings, make: SimpleNamespace) -> SimpleNamespace:
    chance = random.Random(1)

    def record(project_id: str, number: int) -> IncomingRecord:
        failed = number % 100 == 0
        made = make.record(
            project_id,
            timestamp=NOW - chance.random() * 30 * HOUR,
            endpoint=f"GET /page/{number % 20}",
            duration=chance.random(),
            status_code=503 if failed else 200,
            failed=failed,
            version=f"1.0.{number % 5}",
            environment="production" if number % 20 else "staging",
            method="GET" if number % 30 else "DELETE",
        )
        return make.profiled(made) if number % 50 == 0 else IncomingRecord(record=made)

    async with open_store(settings) as store:
        shop, *others = [await store.project_for_service(name) for name in ("shop", "cart", "admin")]
        counts = {shop.id: RECORDS_OF_THE_SHOP} | {other.id: RECORDS_OF_OTHERS for other in others}
        records = [
            record(project_id, number) for project_id, count in counts.items() for number in range(count)
        ]
        profiled = next(item.record for item in records if item.payload is not None)
        spans = [make.span(profiled.trace_id, parent=profiled.span_id) for _ in range(3)]
        for begin in range(0, len(records), 500):
            await store.write(IncomingBatch(records=records[begin : begin + 500]))
        written = IncomingBatch(records=records[:10], child_spans=[make.chunk(shop.id, spans)])
        await store.write(written)
        key = (await store.add_key(shop.id)).secret

    def fresh() -> IncomingBatch:
        new = [record(shop.id, number) for number in range(10)]
        trace_id = new[0].record.trace_id
        return IncomingBatch(records=new, child_spans=[make.chunk(shop.id, [make.span(trace_id)])])

    def late_profile() -> IncomingBatch:
        without = records[1].record
        return IncomingBatch(
            profiles=[
                IncomingProfile(
                    project_id=shop.id,
                    trace_id=without.trace_id,
                    span_id=without.span_id,
                    timestamp=NOW,
                    payload=make.payload(),
                    profile=make.profile,
                )
            ]
        )

    def stolen() -> IncomingBatch:
        return IncomingBatch(
            records=[IncomingRecord(record=replace(records[1].record, project_id=others[0].id))]
        )

    return SimpleNamespace(
        id=shop.id,
        key=key,
        hour=RequestFilter(project_id=shop.id, start=NOW - 3 * HOUR, end=NOW - 2 * HOUR),
        profiled=profiled.id,
        written=written,
        fresh=fresh,
        late_profile=late_profile,
        stolen=stolen,
    )


@pytest.fixture
async def store(shop, database, mongodb_url: str, anyio_backend: str) -> AsyncIterator[Store]:
    async with open_store(StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=database.name)) as opened:
        yield opened


@dataclass(frozen=True)
class Question:
    """One thing that the server was asked, in the form that `explain` takes."""

    collection: str
    operation: str
    command: Mapping[str, Any]

    @property
    def changes_one(self) -> bool:
        """Whether it changes, makes or removes one document."""
        match self.operation:
            case "update":
                return not self.command["updates"][0].get("multi", False)
            case "delete":
                return self.command["deletes"][0]["limit"] == 1
            case operation:
                return operation == "findAndModify"

    @property
    def filters(self) -> Mapping[str, Any]:
        """What its documents must fulfil."""
        match self.operation:
            case "find":
                return self.command["filter"]
            case "aggregate":
                return self.command["pipeline"][0]["$match"]
            case "update" | "delete":
                return self.command[f"{self.operation}s"][0]["q"]
            case _:
                return self.command["query"]


def question(entry: Mapping[str, Any]) -> Question:
    """What the profiler wrote down about it. Updates and deletions are written down one by one."""
    asked, collection = entry["command"], entry["ns"].partition(".")[2]
    if entry["op"] in ("update", "remove"):
        operation = "update" if entry["op"] == "update" else "delete"
        shapes = {"update": ("q", "u", "multi", "upsert"), "delete": ("q", "limit")}
        statement = {name: asked[name] for name in shapes[operation] if name in asked}
        return Question(collection, operation, {operation: collection, f"{operation}s": [statement]})
    operation = next(name for name in asked if name in EXPLAINED)
    kept = {name: asked[name] for name in (operation, *EXPLAINED[operation]) if name in asked}
    return Question(collection, operation, kept)


class Profiler:
    """The server's own record of what our application asks of one database."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._database = database

    def __enter__(self) -> Profiler:
        self._database.command("profile", 0)
        self._database["system.profile"].drop()
        self._database.command("profile", 2, filter={"appName": APPLICATION})
        return self

    def __exit__(self, *_: object) -> None:
        self._database.command("profile", 0)

    def questions(self) -> list[Question]:
        entries = self._database["system.profile"].find({"op": {"$nin": ["insert", "getmore"]}})
        return [question(entry) for entry in entries]


def stages(plan: Any) -> Iterator[Mapping[str, Any]]:
    """Every stage of the winning plan, as deep as it stands."""
    if isinstance(plan, Mapping):
        if "stage" in plan or any(key.startswith("$") for key in plan):
            yield plan
        for key, below in plan.items():
            if key not in ("rejectedPlans", "executionStats", "command", "slotBasedPlan"):
                yield from stages(below)
    elif isinstance(plan, list):
        for below in plan:
            yield from stages(below)


def plan_of(explained: Mapping[str, Any]) -> str:
    """The indexes by name, or COLLSCAN; "+SORT" behind it when documents are sorted in memory."""
    found = list(stages(explained))
    kinds = {stage.get("stage", "") for stage in found}
    names = {stage["indexName"] for stage in found if "indexName" in stage}
    if "IDHACK" in kinds:
        names.add("_id_")
    if "COLLSCAN" in kinds:
        names.add("COLLSCAN")
    sorts = any(kind.startswith("SORT") and kind != "SORT_MERGE" for kind in kinds)
    sorts = sorts or any("$sort" in stage for stage in found)
    return " ".join(sorted(names)) + ("+SORT" if sorts else "")


def totals(explained: Any) -> Mapping[str, int]:
    """The numbers of the run that `explain` made of it."""
    if isinstance(explained, Mapping):
        if "executionStats" in explained:
            return explained["executionStats"]
        explained = list(explained.values())
    if isinstance(explained, list):
        for below in explained:
            if found := totals(below):
                return found
    return {}


def seeks(filters: Mapping[str, Any]) -> int:
    """How often an index is entered at most: once for each value that is looked for, and once to end."""
    values = [len(condition["$in"]) for condition in filters.values() if "$in" in as_condition(condition)]
    return 1 + sum(values)


def as_condition(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def belongs_to_the_answer(asked: Question, numbers: Mapping[str, int], database: Database[Any]) -> int:
    """How many documents must be read: those returned, or those that an aggregation goes over."""
    if asked.operation == "aggregate":
        return database[asked.collection].count_documents(asked.filters)
    return max(1, numbers["nReturned"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_query_is_answered_by_its_index_and_names_its_shard_key(
    case, store, shop, database
) -> None:
    # When the store is asked, and the server writes down what it sees
    with Profiler(database) as profiler:
        await case.call(store, shop)
    asked = profiler.questions()
    answers = [database.command({"explain": each.command, "verbosity": "executionStats"}) for each in asked]

    # Then it sees what is listed here, answered by those indexes
    plans = {
        f"{each.collection} {each.operation} {plan_of(answer)}"
        for each, answer in zip(asked, answers, strict=True)
    }
    assert plans == case.plans

    # And no document is read and no key looked at that does not belong to the answer, or to the pages before,
    # but for those that the list allows
    for each, answer in zip(asked, answers, strict=True):
        numbers = totals(answer)
        wanted = belongs_to_the_answer(each, numbers, database)
        before = each.command.get("skip", 0)
        keys = (wanted + before) * case.keys_each + seeks(each.filters)
        if not (case.reads_others and each.collection == "performance_records"):
            assert numbers["totalDocsExamined"] <= wanted + before, (each, numbers)
            assert numbers["totalKeysExamined"] <= keys, (each, numbers)

    # And where a collection is sharded, the question names the project: only its shards are asked
    everywhere = [
        each for each in asked if SHARD_KEYS[each.collection] and not names_its_project(each.filters)
    ]
    assert len(everywhere) == (1 if case.asks_everywhere else 0), everywhere

    # And who changes or makes one document names the whole key, so that one shard does
    for each in asked:
        if each.changes_one:
            assert set(SHARD_KEYS[each.collection] or ()) <= set(each.filters), each


def names_its_project(filters: Mapping[str, Any]) -> bool:
    """By equality, or as one of several: a range of projects would ask every shard."""
    match filters.get("project_id"):
        case None:
            return False
        case dict() as condition:
            return set(condition) == {"$in"}
        case _:
            return True


def test_every_method_of_the_contract_is_explained() -> None:
    methods = {name for half in (Reader, Writer) for name in vars(half) if not name.startswith("_")}

    assert {case.method for case in CASES} == methods - {"check"}


def test_every_filter_of_the_record_list_is_explained() -> None:
    filters = {field.name for field in fields(RecordQuery)} - {"project_id", "page", "page_size"}

    assert frozenset().union(*(case.filters for case in CASES)) == filters


async def test_every_document_of_a_sharded_collection_names_its_project(store, shop, database) -> None:
    await store.write(shop.fresh())

    assert set(database.list_collection_names()) - {"system.profile"} <= set(SHARD_KEYS)
    for collection, key in SHARD_KEYS.items():
        if key is not None:
            assert collection in ROLLUPS or database[collection].count_documents({}) > 0
            assert database[collection].count_documents({"project_id": {"$not": {"$type": "objectId"}}}) == 0
