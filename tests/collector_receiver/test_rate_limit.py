"""One project's flood is slowed down, exactly as OTLP asks for it, and is nobody else's trouble."""

import asyncio
import json

import grpc
import httpx2
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from collector_receiver import rate_limit
from collector_receiver.rate_limit import BURST_SECONDS, MAX_DEBT_SECONDS, Demand, RateLimit, RateLimiter
from collector_receiver.refusals import RateLimited
from profile_store.contracts import StoreUnavailable
from profile_store.model import RecordQuery

EXPORT_METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
PROTOBUF = {"content-type": "application/x-protobuf"}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def flood(limiter, seconds, clock, limit, per_request, every):
    """Spans that got through when requests come all the time."""
    taken, end = 0, clock.now + seconds
    while clock.now < end:
        try:
            limiter.take({"p": Demand(limit, **per_request)})
            taken += 1
        except RateLimited:
            pass
        clock.now += every
    return taken


@pytest.mark.parametrize("amount", ["spans", "bytes"])
def test_a_flood_gets_through_at_the_rate_and_not_faster(amount):
    clock, limit = Clock(), RateLimit(**{amount: 1_000})
    limiter = RateLimiter(clock)

    taken = flood(limiter, 100, clock, limit, {amount: 100}, every=0.01)

    expected = (100 + BURST_SECONDS) * 1_000 / 100
    assert taken == pytest.approx(expected, rel=0.02)


def test_the_time_to_wait_is_when_a_request_gets_in_again():
    clock, limit = Clock(), RateLimit(spans=100)
    limiter = RateLimiter(clock)
    limiter.take({"p": Demand(limit, spans=1_000)})

    with pytest.raises(RateLimited) as refused:
        limiter.take({"p": Demand(limit, spans=1)})

    assert refused.value.retry_after_seconds == pytest.approx(1_000 / 100 - BURST_SECONDS)
    clock.now += refused.value.retry_after_seconds
    limiter.take({"p": Demand(limit, spans=1)})


def test_one_huge_request_does_not_shut_a_project_out_for_long():
    clock, limit = Clock(), RateLimit(spans=1)
    limiter = RateLimiter(clock)
    limiter.take({"p": Demand(limit, spans=65_536)})

    clock.now += MAX_DEBT_SECONDS
    limiter.take({"p": Demand(limit, spans=1)})


def test_a_refused_request_takes_nothing_from_any_of_its_projects():
    limiter = RateLimiter(Clock())
    limiter.take({"over": Demand(RateLimit(spans=1), spans=100)})

    other = Demand(RateLimit(spans=1), spans=5)
    with pytest.raises(RateLimited) as refused:
        limiter.take({"other": other, "over": Demand(RateLimit(spans=1), spans=1)})

    assert refused.value.project_id == "over"
    limiter.take({"other": other})
    limiter.take({"other": other})  # had exactly this much


@pytest.mark.parametrize("spans", [1, 5, 30, 10_000], ids=lambda spans: f"{spans} spans")
def test_what_was_taken_for_nothing_is_given_back_and_no_more(spans):
    # Given a project that has used up what it had saved, and a request that could not be stored
    limiter, limit = RateLimiter(Clock()), RateLimit(spans=1, bytes=1)
    limiter.take({"p": Demand(limit, spans=5, bytes=5)})
    lost = {"p": Demand(limit, spans=spans, bytes=spans)}
    limiter.take(lost)

    # When that one is given back
    limiter.give_back(lost)

    # Then there is as much as before it: nothing, but no debt
    limiter.take({"p": Demand(limit, spans=2, bytes=2)})
    with pytest.raises(RateLimited) as refused:
        limiter.check("p", limit)
    assert refused.value.retry_after_seconds == pytest.approx(2)


def test_no_limit_remembers_nothing():
    limiter = RateLimiter(Clock())

    for _ in range(100):
        limiter.check("p", RateLimit())
        limiter.take({"p": Demand(RateLimit(), spans=10**9, bytes=10**12)})

    assert not limiter._buckets


def test_the_number_of_remembered_projects_is_bounded(monkeypatch):
    monkeypatch.setattr(rate_limit, "MAX_REMEMBERED", 10)
    limiter = RateLimiter(Clock())

    for number in range(100):
        limiter.take({str(number): Demand(RateLimit(spans=1), spans=1)})

    assert len(limiter._buckets) == 10


def test_one_request_may_name_more_projects_than_are_remembered(monkeypatch):
    monkeypatch.setattr(rate_limit, "MAX_REMEMBERED", 10)
    limiter, limit = RateLimiter(Clock()), RateLimit(spans=1)

    limiter.take({str(number): Demand(limit, spans=100) for number in range(25)})

    assert len(limiter._buckets) == 10
    with pytest.raises(RateLimited):
        limiter.check("24", limit)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, RateLimit(10, 20)),
        ({"max_spans_per_second": 5}, RateLimit(5, 20)),
        ({"max_bytes_per_second": 0}, RateLimit(10, 0)),
        ({"max_spans_per_second": "many", "max_bytes_per_second": -1}, RateLimit(10, 20)),
        ({"max_spans_per_second": True, "max_bytes_per_second": float("nan")}, RateLimit(10, 20)),
    ],
)
def test_a_project_has_its_own_limit_where_its_config_says_so(config, expected):
    assert RateLimit(10, 20).of_project(config) == expected


async def total_of(store, service):
    project = await store.project_for_service(service)
    return (await store.records(RecordQuery(project_id=project.id))).total


def request_of(make, service, spans=1):
    return make.request(*(make.span() for _ in range(spans)), resource={"service.name": service})


@pytest.mark.anyio
async def test_over_grpc_it_is_unavailable_with_the_time_to_wait(start_receiver, make, store):
    receiver = await start_receiver(project_spans_per_second=1)
    await receiver.client.export(request_of(make, "loud", spans=20))

    error = await receiver.client.refusal(request_of(make, "loud"))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    retry = RetryInfo.FromString(dict(error.trailing_metadata())["google.rpc.retryinfo-bin"])
    assert 10 <= retry.retry_delay.seconds <= 15
    assert await total_of(store, "loud") == 20


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["protobuf", "json"])
async def test_over_http_it_is_a_429_with_the_time_to_wait(start_receiver, make, store, encoding):
    receiver = await start_receiver(project_bytes_per_second=1)
    await receiver.client.export(request_of(make, "loud"))
    body, headers = b'{"resourceSpans":[{"resource":{"attributes":[', {"content-type": "application/json"}
    body += b'{"key":"service.name","value":{"stringValue":"loud"}}]}}]}'
    if encoding == "protobuf":
        body, headers = request_of(make, "loud").SerializeToString(), PROTOBUF

    async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
        response = await client.post(
            f"http://{receiver.http_address}/v1/traces", content=body, headers=headers
        )

    assert response.status_code == 429
    assert 1 <= int(response.headers["retry-after"]) <= MAX_DEBT_SECONDS
    if encoding == "protobuf":
        status = Status.FromString(response.content)
        retry = RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.seconds == int(response.headers["retry-after"])
    else:
        assert json.loads(response.content)["message"]
    assert await total_of(store, "loud") == 1


@pytest.mark.anyio
async def test_a_request_with_one_project_too_much_is_refused_whole(start_receiver, make, store):
    receiver = await start_receiver(project_spans_per_second=1)
    await receiver.client.export(request_of(make, "loud", spans=20))
    both = request_of(make, "quiet")
    both.resource_spans.extend(request_of(make, "loud").resource_spans)

    error = await receiver.client.refusal(both)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert await total_of(store, "quiet") == 0
    await receiver.client.export(request_of(make, "quiet"))


@pytest.mark.anyio
async def test_a_flood_does_not_starve_another_project(start_receiver, make, store):
    # Given a project that floods from many sides
    receiver = await start_receiver(project_spans_per_second=50)
    stop = asyncio.Event()
    answers = {"ok": 0, "refused": 0}
    codes = set()

    async def flooding():
        body = request_of(make, "loud", spans=50).SerializeToString()
        while not stop.is_set():
            try:
                await receiver.client.export(body)
                answers["ok"] += 1
            except grpc.aio.AioRpcError as error:
                codes.add(error.code())
                answers["refused"] += 1

    floods = [asyncio.create_task(flooding()) for _ in range(8)]
    async with asyncio.timeout(20):
        while not answers["refused"]:
            await asyncio.sleep(0.01)

    # When another one sends now and then
    for _ in range(20):
        await receiver.client.export(request_of(make, "quiet"))
    stop.set()
    await asyncio.gather(*floods)

    # Then all of it was taken, and the flood was told to wait
    assert await total_of(store, "quiet") == 20
    assert answers["refused"] > answers["ok"]
    assert codes == {grpc.StatusCode.UNAVAILABLE}
    counted = receiver.ingest.counters
    loud = (await store.project_for_service("loud")).id
    assert counted.project_rate_limited.items() == {loud: answers["refused"]}


@pytest.mark.anyio
async def test_with_a_key_it_is_refused_before_anything_is_parsed(start_receiver, make, store):
    receiver = await start_receiver(project_spans_per_second=1)
    project = await store.create_project("orders")
    key = [("x-project-key", project.project_key)]
    await receiver.client.export(request_of(make, "x", spans=20), metadata=key)

    error = await receiver.client.refusal(b"\xff no protobuf", metadata=key)

    assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.anyio
async def test_the_config_of_a_project_counts(start_receiver, make, store):
    project = await store.create_project("orders")
    await store.configure(project.id, {"max_spans_per_second": 1})
    receiver = await start_receiver()
    key = [("x-project-key", project.project_key)]
    await receiver.client.export(request_of(make, "x", spans=20), metadata=key)

    assert (await receiver.client.refusal(request_of(make, "x"), metadata=key)).code() is (
        grpc.StatusCode.UNAVAILABLE
    )


@pytest.mark.anyio
async def test_spans_that_could_not_be_stored_use_up_nothing(start_receiver, make, store, monkeypatch):
    # Given a project that may send two spans a second, and a database that is away
    project = await store.create_project("orders")
    await store.configure(project.id, {"max_spans_per_second": 2})
    receiver = await start_receiver()
    key = [("x-project-key", project.project_key)]

    async def away(_batch):
        raise StoreUnavailable("gone")

    # When it sends again and again what cannot be stored
    with monkeypatch.context() as outage:
        outage.setattr(store, "write", away)
        for _ in range(5):
            error = await receiver.client.refusal(request_of(make, "x", spans=9), metadata=key)
            assert error.details() == "the database does not answer"

    # Then all that it has saved up is still there
    await receiver.client.export(request_of(make, "x", spans=9), metadata=key)


@pytest.mark.anyio
async def test_a_flood_of_profile_log_records_is_limited_like_spans(start_receiver, make):
    # Given a project that has sent many profiles as log records
    receiver = await start_receiver(project_spans_per_second=1)
    await receiver.client.export_logs(make.logs(*(make.profile_log() for _ in range(40))))
    # When it sends one more
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await receiver.client.export_logs(make.logs(make.profile_log()))
    # Then it is told to wait, and nothing of that was taken
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    retry = RetryInfo.FromString(dict(refused.value.trailing_metadata())["google.rpc.retryinfo-bin"])
    assert 1 <= retry.retry_delay.seconds <= MAX_DEBT_SECONDS
    assert receiver.ingest.counters.log_profiles_received == 40
    # And its spans wait as well
    assert (await receiver.client.refusal(make.request(make.span()))).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.anyio
async def test_metrics_of_a_project_over_its_limit_are_refused_and_use_up_nothing(
    start_receiver, make, store
):
    # Given a project whose key sends metrics, and may send one span a second
    receiver = await start_receiver(project_spans_per_second=1)
    project = await store.create_project("orders")
    metrics = make.metrics(points=100).SerializeToString()
    headers = {"x-project-key": project.project_key}

    async def send_metrics():
        async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
            address = f"http://{receiver.http_address}/v1/metrics"
            return await client.post(address, content=metrics, headers=PROTOBUF | headers)

    assert [(await send_metrics()).status_code for _ in range(3)] == [200] * 3
    # When it sends too many spans, for which its metrics have left room
    await receiver.client.export(request_of(make, "x", spans=40), metadata=list(headers.items()))
    # Then its metrics are refused over both protocols, for now
    over_http = await send_metrics()
    assert over_http.status_code == 429
    assert 1 <= int(over_http.headers["retry-after"]) <= MAX_DEBT_SECONDS
    with pytest.raises(grpc.aio.AioRpcError) as over_grpc:
        await receiver.client.call(EXPORT_METRICS, metrics, metadata=list(headers.items()))
    assert over_grpc.value.code() is grpc.StatusCode.UNAVAILABLE
