"""Who may write: real receivers and clients of both protocols, with keys that come and go."""

import asyncio
import secrets
import time
from datetime import timedelta

import grpc
import grpc.aio
import httpx2
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from pymongo import MongoClient

from collector_receiver.projects import REMEMBERED_SECONDS
from profile_store.model import RecordQuery

pytestmark = pytest.mark.anyio

PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.fixture
async def http():
    async with httpx2.AsyncClient(timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def database(mongodb_url, mongodb_database):
    """The store's database, seen from beside it."""
    with MongoClient(mongodb_url) as client:
        yield client[mongodb_database]


@pytest.fixture
def everything(database):
    """Function -> number of documents by collection, of those that have any."""

    def count():
        found = {name: database[name].count_documents({}) for name in database.list_collection_names()}
        return {name: documents for name, documents in found.items() if documents}

    return count


async def over_grpc(receiver, request, key):
    """The status of a call, as HTTP has it."""
    metadata = [] if key is None else [("x-project-key", key)]
    try:
        await receiver.client.export(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return 401 if error.code() is grpc.StatusCode.UNAUTHENTICATED else error.code()
    return 200


async def over_http(http, receiver, request, key):
    headers = PROTOBUF | ({} if key is None else {"x-project-key": key})
    response = await http.post(
        f"http://{receiver.http_address}/v1/traces", content=request.SerializeToString(), headers=headers
    )
    if response.status_code != 200:
        assert Status.FromString(response.content).code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    return response.status_code


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty", "unknown", "revoked", "ended", "hash", "deleted", "inactive", "archived"],
)
async def test_without_a_valid_key_nothing_at_all_is_stored(
    start_receiver, make, store, http, database, everything, kind
):
    # Given a receiver in key mode, and a key that is no longer or never was valid
    receiver = await start_receiver(ingest_mode="key")
    key = {"missing": None, "empty": "", "unknown": "opk_" + "x" * 32}.get(kind)
    if kind in ("revoked", "ended", "hash", "deleted", "inactive", "archived"):
        project = await store.create_project("orders")
        key = project.project_key
        if kind == "revoked":
            await store.revoke_key(project.id, project.keys[0].prefix)
        elif kind == "ended":
            await store.rotate_key(project.id, overlap=timedelta(0))
        elif kind == "deleted":
            await store.delete_project(project.id)
        elif kind in ("inactive", "archived"):
            database.projects.update_one({"name": "orders"}, {"$set": {"status": kind}})
        else:
            key = project.keys[0].prefix
    before = everything()
    # When spans come over both protocols, with the key in either place
    of_resource = {"service.name": "orders"} | ({} if key is None else {"project.key": key})
    plain = make.request(make.span(events=[make.profile_event()]))
    keyed = make.request(make.span(), resource=of_resource)
    # Then they are refused, and there is neither a project nor a record nor anything else
    assert await over_grpc(receiver, plain, key) == await over_http(http, receiver, plain, key) == 401
    assert await over_grpc(receiver, keyed, None) == await over_http(http, receiver, keyed, None) == 401
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await receiver.client.export_logs(
            make.logs(make.profile_log()), metadata=[("x-project-key", key or "")]
        )
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert everything() == before


@pytest.mark.parametrize("status", ["inactive", "archived"])
async def test_in_open_mode_a_service_finds_its_inactive_project_but_its_keys_do_not(
    start_receiver, make, store, http, database, status
):
    # Given a receiver in open mode, and a project that is not active any more
    receiver = await start_receiver()
    project = await store.create_project("orders")
    database.projects.update_one({"name": "orders"}, {"$set": {"status": status}})
    request = make.request(make.span(), resource={"service.name": "orders"})
    # When spans come with its key, then they are refused
    assert await over_grpc(receiver, request, project.project_key) == 401
    assert await over_http(http, receiver, request, project.project_key) == 401
    # And when they name its service only, then they are its own
    assert await over_grpc(receiver, request, None) == 200
    assert (await store.records(RecordQuery(project_id=project.id))).total == 1


def test_a_key_is_remembered_for_so_short_that_a_request_has_time_left_within_ten_seconds():
    assert REMEMBERED_SECONDS <= 5


async def test_every_receiver_notices_soon_that_a_key_was_revoked(
    start_receiver, make, store, http, monkeypatch
):
    # Given two receivers of both modes that have just seen a key, which has a successor
    monkeypatch.setattr("collector_receiver.projects.REMEMBERED_SECONDS", 0.5)
    receivers = [await start_receiver(ingest_mode=mode) for mode in ("key", "open")]
    project = await store.create_project("orders")
    successor = await store.add_key(project.id)

    async def send(receiver, key, protocol):
        request = make.request(make.span())
        if protocol == "grpc":
            return await over_grpc(receiver, request, key)
        return await over_http(http, receiver, request, key)

    ways = [(receiver, protocol) for receiver in receivers for protocol in ("grpc", "http")]
    assert {await send(receiver, project.project_key, protocol) for receiver, protocol in ways} == {200}

    # When the key is revoked
    await store.revoke_key(project.id, project.keys[0].prefix)
    revoked = time.monotonic()

    async def seconds_until_refused(receiver, protocol):
        while await send(receiver, project.project_key, protocol) != 401:
            await asyncio.sleep(0.1)
        return time.monotonic() - revoked

    async with asyncio.timeout(30):
        noticed = await asyncio.gather(*(seconds_until_refused(*way) for way in ways))

    # Then all have noticed in time, it stays refused, and the successor goes on
    assert max(noticed) < 0.5 + 5
    assert {await send(receiver, project.project_key, protocol) for receiver, protocol in ways} == {401}
    assert {await send(receiver, successor.secret, protocol) for receiver, protocol in ways} == {200}


async def test_a_new_key_works_at_once_while_the_old_one_still_does(start_receiver, make, store):
    receiver = await start_receiver(ingest_mode="key")
    project = await store.create_project("orders")
    assert await over_grpc(receiver, make.request(make.span()), project.project_key) == 200
    issued = await store.rotate_key(project.id)
    for key in (issued.secret, project.project_key):
        assert await over_grpc(receiver, make.request(make.span()), key) == 200
    assert (await store.records(RecordQuery(project_id=project.id))).total == 3


async def test_a_flood_of_wrong_keys_leaves_the_database_and_other_senders_alone(
    start_receiver, make, store, http, mongodb_url, mongodb_database
):
    # Given a receiver in key mode, and a database that writes down who asks for projects
    receiver = await start_receiver(ingest_mode="key")
    project = await store.create_project("orders")
    request = make.request(make.span())

    def queries():
        with MongoClient(mongodb_url) as client:
            database = client[mongodb_database]
            database.command("profile", 2)
            asked = {"op": "query", "ns": f"{mongodb_database}.projects"}
            return database["system.profile"].count_documents(asked)

    before, start = queries(), time.monotonic()
    # When 600 senders try a wrong key each, and one has the right one
    wrong = [over_http(http, receiver, request, secrets.token_hex(8)) for _ in range(600)]
    statuses = await asyncio.gather(*wrong, over_grpc(receiver, request, project.project_key))
    # Then all are answered, for a bounded number of queries a second
    assert statuses == [401] * 600 + [200]
    allowed = 20 + 20 * (time.monotonic() - start)
    assert 0 < queries() - before <= allowed


async def test_services_beyond_the_limit_are_refused_with_a_reason_and_counted(
    start_receiver, make, store, http
):
    # Given a receiver in open mode with room for one project
    receiver = await start_receiver(max_projects=1)
    await receiver.client.export(make.request(make.span(), resource={"service.name": "first"}))
    # When another service sends, alone and together with the first
    alone = await receiver.client.export(make.request(make.span(), make.span()))
    both = make.request(make.span(), resource={"service.name": "first"})
    both.resource_spans.append(make.resource_spans(make.span()))
    response = await http.post(
        f"http://{receiver.http_address}/v1/traces", content=both.SerializeToString(), headers=PROTOBUF
    )
    # Then its spans are refused for good, by name, and nothing was made for it
    assert alone.partial_success.rejected_spans == 2
    assert alone.partial_success.error_message == "spans rejected: project_limit_reached 2"
    together = ExportTraceServiceResponse.FromString(response.content).partial_success
    assert (response.status_code, together.rejected_spans) == (200, 1)
    assert receiver.ingest.counters.spans_rejected == {"project_limit_reached": 3}
    assert [project.name for project in (await store.projects()).items] == ["first"]


async def test_a_batch_of_many_new_services_is_taken_when_it_has_come_often_enough(
    start_receiver, make, store, http, monkeypatch
):
    # Given a request of five services, which may make two projects
    monkeypatch.setattr("collector_receiver.projects.MAX_NEW_PROJECTS_PER_REQUEST", 2)
    receiver = await start_receiver()
    request = make.request(make.span(), resource={"service.name": "a"})
    for name in "bcde":
        request.resource_spans.append(make.resource_spans(make.span(), resource={"service.name": name}))
    # When it comes over either protocol
    response = await http.post(
        f"http://{receiver.http_address}/v1/traces", content=request.SerializeToString(), headers=PROTOBUF
    )
    again = await receiver.client.refusal(request)
    last = await receiver.client.export(request)
    # Then it is to come again, with nothing stored, until there are projects for all
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert again.code() is grpc.StatusCode.UNAVAILABLE
    assert receiver.ingest.counters.retryable == {"too_many_new_projects": 2}
    assert not last.HasField("partial_success")
    found = (await store.projects()).items
    assert [project.name for project in found] == list("abcde")
    totals = [(await store.records(RecordQuery(project_id=project.id))).total for project in found]
    assert totals == [1] * 5


async def test_a_deleted_project_does_not_come_back_while_its_spans_still_arrive(
    start_receiver, make, store, everything, monkeypatch
):
    # Given a sender with a key that goes on sending
    monkeypatch.setattr("collector_receiver.projects.REMEMBERED_SECONDS", 0.5)
    receiver = await start_receiver(ingest_mode="key")
    project = await store.create_project("orders")
    statuses = []
    stop = asyncio.Event()

    async def send():
        while not stop.is_set():
            statuses.append(await over_grpc(receiver, make.request(make.span()), project.project_key))
            await asyncio.sleep(0.02)

    sending = asyncio.create_task(send())
    async with asyncio.timeout(30):
        while 200 not in statuses:
            await asyncio.sleep(0.02)
        # When its project is deleted
        await store.delete_project(project.id)
        while 401 not in statuses:
            await store.upkeep()
            await asyncio.sleep(0.05)
    stop.set()
    await sending
    # Then it is refused, the project stays gone, and so does what came late
    assert (await store.upkeep()).is_finished
    assert await store.project(project.id) is None
    assert everything() == {"project_chores": 1}


async def test_in_open_mode_a_deleted_service_starts_anew(
    start_receiver, make, store, everything, monkeypatch
):
    # Given a service that has sent, and was then deleted
    monkeypatch.setattr("collector_receiver.projects.REMEMBERED_SECONDS", 0.5)
    receiver = await start_receiver()
    await receiver.client.export(make.request(make.span()))
    old = await store.project_for_service("shop")
    await store.delete_project(old.id)
    await store.upkeep()
    # When it sends on
    async with asyncio.timeout(30):
        while not (found := (await store.projects()).items):
            await receiver.client.export(make.request(make.span()))
            await asyncio.sleep(0.1)
    await store.upkeep()
    # Then there is a new project with what came since it exists
    [new] = found
    assert (new.name, new.id != old.id) == ("shop", True)
    assert (await store.records(RecordQuery(project_id=old.id))).total == 0
    assert everything()["performance_records"] == (await store.records(RecordQuery(project_id=new.id))).total
