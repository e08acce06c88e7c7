"""What operators, probes and Prometheus see of a receiver."""

import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from collector_receiver import readiness
from collector_receiver.counters import MAX_PROJECTS_COUNTED, ByProject, Histogram
from profile_store import StoreSettings, open_store
from profile_store.contracts import StoreUnavailable
from profile_store.embedded_mongodb import embedded_mongodb
from tests.free_ports import find_free_ports

pytestmark = pytest.mark.anyio

PROTOBUF = {"content-type": "application/x-protobuf"}
PREFIX = "collector_receiver_"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "receiver.md"


class Operator:
    """Asks a receiver's status pages."""

    def __init__(self, address):
        self._client = httpx2.AsyncClient(base_url=f"http://{address}", timeout=20, trust_env=False)

    async def get(self, path, **headers):
        return await self._client.get(path, headers=headers)

    async def request(self, method, path, **options):
        return await self._client.request(method, path, **options)

    async def samples(self):
        """Every sample as (name without prefix, labels without process) -> value."""
        answer = await self.get("/metrics")
        assert answer.status_code == 200
        result = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                assert sample.labels["process"] == "0"
                labels = frozenset((key, value) for key, value in sample.labels.items() if key != "process")
                result[sample.name.removeprefix(PREFIX), labels] = sample.value
        return result

    async def close(self):
        await self._client.aclose()


def sample(samples, name, **labels):
    return samples.get((name, frozenset(labels.items())))


@pytest.fixture
async def operate():
    """Function (address) -> Operator, closed after the test."""
    operators = []

    def start(address):
        operators.append(Operator(address))
        return operators[-1]

    yield start
    for operator in operators:
        await operator.close()


@pytest.fixture
def soon(monkeypatch):
    """Readiness is asked for all the time."""
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.02)


async def wait_for(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_metrics_count_what_came_and_what_became_of_it(receiver, make, operate):
    # Given good, repeated, partly bad, undecodable and ignored requests over both protocols
    span = make.span(events=[make.profile_event()])
    await receiver.client.export(make.request(span, make.span()))
    await receiver.client.export(make.request(span))
    await receiver.client.export(make.request(make.span(span_id=b"five5"), make.span()))
    await receiver.client.refusal(b"\xff\xff\xff")
    operator = operate(receiver.http_address)
    body = make.request(make.span()).SerializeToString()
    posted = await operator.request("POST", "/v1/traces", content=body, headers=PROTOBUF)
    assert posted.status_code == 200
    for path, expected in (("/v1/metrics", 200), ("/v1/profiles", 404)):
        answer = await operator.request("POST", path, content=b"", headers=PROTOBUF)
        assert answer.status_code == expected

    # When Prometheus comes
    samples = await operator.samples()

    # Then everything was counted once
    grpc_traces = {"protocol": "grpc", "encoding": "protobuf", "signal": "traces"}
    http = {"protocol": "http", "encoding": "protobuf"}
    assert sample(samples, "requests_total", **grpc_traces, code="OK") == 3
    assert sample(samples, "requests_total", **grpc_traces, code="INVALID_ARGUMENT") == 1
    assert sample(samples, "requests_total", **http, signal="traces", code="200") == 1
    assert sample(samples, "requests_total", **http, signal="none", code="404") == 1
    assert sample(samples, "request_bytes_total", protocol="http", signal="traces") == len(body)
    assert sample(samples, "outcomes_total", outcome="ok") == 4
    assert sample(samples, "outcomes_total", outcome="partial") == 1
    assert sample(samples, "outcomes_total", outcome="undecodable") == 1
    assert sample(samples, "ignored_total", signal="metrics") == 1
    assert sample(samples, "spans_received_total") == 6
    assert sample(samples, "spans_accepted_total") == 5
    assert sample(samples, "spans_rejected_total", reason="invalid_span_id") == 1
    assert sample(samples, "records_stored_total") == 4
    assert sample(samples, "records_repeated_total") == 1
    assert sample(samples, "profiles_stored_total") == 1
    assert sample(samples, "store_seconds_count") == 4
    assert sample(samples, "store_seconds_bucket", le="+Inf") == 4
    assert sample(samples, "bytes_in_flight") == 0
    assert sample(samples, "ready") == 1
    assert 10**6 < sample(samples, "resident_memory_bytes") < 10**10


async def test_retryable_answers_are_counted_by_reason(receiver, make, store, operate, monkeypatch):
    async def away(batch):
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store, "write", away)
    await receiver.client.refusal(make.request(make.span()))

    samples = await operate(receiver.http_address).samples()

    assert sample(samples, "retryable_total", reason="storage_unavailable") == 1
    assert sample(samples, "spans_received_total") == 1
    assert sample(samples, "spans_accepted_total") == 0
    assert sample(samples, "store_seconds_count") == 1


async def test_metrics_name_no_key_no_service_and_no_address(start_receiver, make, store, operate):
    receiver = await start_receiver(ingest_mode="key")
    project = await store.create_project("secret-shop")
    key = [("x-project-key", project.project_key)]
    await receiver.client.export(make.request(make.span()), metadata=key)

    page = (await operate(receiver.http_address).get("/metrics")).text

    assert project.id in page
    for private in (project.project_key, "secret-shop", "mongodb://", "127.0.0.1"):
        assert private not in page


async def test_every_metric_is_documented(receiver, operate):
    page = (await operate(receiver.http_address).get("/metrics")).text
    text = DOCUMENTATION.read_text("utf-8")
    names = [name.removesuffix("_total") for name in re.findall(rf"^# TYPE {PREFIX}(\S+) ", page, re.M)]
    assert len(names) > 20
    assert [name for name in names if f"`{name}`" not in text] == []


async def test_openmetrics_is_spoken_to_who_asks_for_it(receiver, operate):
    answer = await operate(receiver.http_address).get("/metrics", accept="application/openmetrics-text")

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_with_a_port_of_its_own_the_data_port_has_no_status_pages(start_receiver, operate):
    receiver = await start_receiver(status_port=0)

    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await operate(receiver.status_address).get(path)).status_code == 200
        assert (await operate(receiver.http_address).get(path)).status_code == 404
    assert (await operate(receiver.status_address).get("/v1/traces")).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_status_pages_are_only_read(receiver, operate, method):
    answer = await operate(receiver.http_address).request(method, "/readyz")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def health_of(receiver, service=""):
    stub = health_pb2_grpc.HealthStub(receiver.client.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_readiness_and_grpc_health_follow_the_database(
    mongod_executable, start_receiver_on, operate, soon, tmp_path
):
    # Given a receiver whose database is at a port that nobody else is given while it is away
    serving = health_pb2.HealthCheckResponse
    (tmp_path / "mongodb.port").write_text(str(find_free_ports(1)[0]))
    with contextlib.ExitStack() as databases:
        database = databases.enter_context(embedded_mongodb(tmp_path))
        settings = StoreSettings(MONGODB_URL=database.url, MONGODB_DATABASE="readiness")
        async with open_store(settings) as store:
            receiver = await start_receiver_on(store)
            operator = operate(receiver.http_address)
            assert (await operator.get("/readyz")).status_code == 200

            # When the database is killed
            os.kill(database.pid, signal.SIGKILL)

            # Then the receiver is alive and not ready, and says so over gRPC too
            async def not_ready():
                return (await operator.get("/readyz")).status_code == 503

            async def not_serving():
                return await health_of(receiver) == serving.NOT_SERVING

            await wait_for(not_ready)
            await wait_for(not_serving)
            assert "database" in (await operator.get("/readyz")).text
            assert (await operator.get("/healthz")).status_code == 200
            assert sample(await operator.samples(), "ready") == 0

            # And when it is back, the receiver is ready again
            databases.close()
            again = databases.enter_context(embedded_mongodb(tmp_path))
            assert again.url == database.url

            async def serving_again():
                return await health_of(receiver) == serving.SERVING

            await wait_for(serving_again)
            assert (await operator.get("/readyz")).status_code == 200


def hold_writes(receiver, monkeypatch):
    """Two events: a write has come to the store; it may go on."""
    entered, go_on = asyncio.Event(), asyncio.Event()
    store = receiver.ingest._commits._store
    real = store.write

    async def slow(batch):
        entered.set()
        await go_on.wait()
        return await real(batch)

    monkeypatch.setattr(store, "write", slow)
    return entered, go_on


async def test_a_request_that_is_worked_on_shows_in_the_gauges(receiver, make, operate, monkeypatch):
    # Given a request that is held up in the store
    entered, go_on = hold_writes(receiver, monkeypatch)
    request = make.request(make.span({"http.request.header.x": "y" * 50_000})).SerializeToString()
    running = asyncio.create_task(receiver.client.export(request))
    await asyncio.wait_for(entered.wait(), 20)
    # When Prometheus comes
    operator = operate(receiver.http_address)
    samples = await operator.samples()
    # Then it sees one request and its bytes
    assert sample(samples, "requests_in_flight") == 1
    assert len(request) <= sample(samples, "bytes_in_flight") < 2 * len(request)
    assert sample(samples, "bytes_in_flight") < sample(samples, "bytes_in_flight_limit")
    # And none once it is answered
    go_on.set()
    await running

    async def nothing_in_flight():
        samples = await operator.samples()
        return sample(samples, "requests_in_flight") == sample(samples, "bytes_in_flight") == 0

    await wait_for(nothing_in_flight)


async def test_a_stopping_receiver_is_not_ready(start_receiver, make, operate, monkeypatch):
    # Given a receiver with a request that is held up in the store
    receiver = await start_receiver(status_port=0)
    entered, go_on = hold_writes(receiver, monkeypatch)
    running = asyncio.create_task(receiver.client.export(make.request(make.span())))
    await asyncio.wait_for(entered.wait(), 20)

    # When it stops
    stopping = asyncio.create_task(receiver.stop(20))
    await asyncio.sleep(0)

    # Then load balancers can see it before the port closes
    answer = await operate(receiver.status_address).get("/readyz")
    assert (answer.status_code, answer.text) == (503, "not ready: stopping\n")
    go_on.set()
    await running
    await stopping


def test_projects_beyond_a_number_are_counted_together():
    counts = ByProject()

    for number in range(MAX_PROJECTS_COUNTED + 50):
        counts.add(f"p{number}", 2)
    counts.add("p0", 1)

    assert len(counts.items()) == MAX_PROJECTS_COUNTED + 1
    assert (counts.items()["p0"], counts.items()["other"]) == (3, 100)


def test_a_histogram_is_cumulative():
    histogram = Histogram((1.0, 2.0))

    for seconds in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(seconds)

    assert histogram.cumulative() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.sum_seconds == 12.0


async def test_a_call_above_the_size_limit_is_counted(start_receiver, make, operate):
    receiver = await start_receiver(max_request_size=65_536)
    error = await receiver.client.refusal(make.request(make.span({"x": "y" * 70_000})))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    samples = await operate(receiver.http_address).samples()

    counted = {
        dict(labels)["code"]: value for (name, labels), value in samples.items() if name == "requests_total"
    }
    assert counted == {"RESOURCE_EXHAUSTED": 1}
