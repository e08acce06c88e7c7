"""The commands, settings and health checks of compose.yaml, run on this machine with a real MongoDB.

All but two: nothing of ours installs Redis, which nothing uses yet, and `collector-queue` only gives a
directory to another user.
"""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.deployment.machine import LIMIT_SECONDS, ROOT, Machine

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


@pytest.fixture
def machine(compose, stages, tmp_path, mongod_executable) -> Iterator[Machine]:
    image = dict(pair.split("=", 1) for each in stages[-1] if each.name == "ENV" for pair in each.words)
    machine = Machine(compose, image, tmp_path, mongod_executable)
    yield machine
    machine.kill()


def send_one_request(port: int) -> None:
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = "shop"
    now = time.time_ns()
    resource_spans.scope_spans.add().spans.add(
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        name="GET /orders",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=now - 10**8,
        end_time_unix_nano=now,
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        export(request.SerializeToString(), timeout=30)


def test_the_services_of_compose_work_together(machine, secrets) -> None:
    # Given a fresh database, started as compose.yaml says
    database = machine.start("mongodb")
    key = machine.mounts("mongodb")["/data/configdb"] / "keyfile"

    # When it is set up, first with another password, then a replica set and the services' user are there
    setup = machine.services["database-setup"]["command"]
    url = machine.environment("receiver")["MONGODB_URL"]
    for first_url in (url.replace("services-password", "the-old-one"), url):
        done = machine.run("database-setup", setup, MONGODB_URL=first_url)
        assert (done.returncode, done.stdout) == (0, "the database otel_pyinstrument is ready\n"), done.stderr
    assert key.stat().st_mode & 0o777 == 0o600
    with MongoClient(url) as client:
        assert client.otel_pyinstrument.command("ping")
        with pytest.raises(OperationFailure, match="not authorized"):
            client.other.things.insert_one({})
        with pytest.raises(OperationFailure, match="not authorized"):
            client.admin.command("replSetGetConfig")
    with MongoClient(machine.here("mongodb://root:root-password@mongodb:27017/?authSource=admin")) as client:
        config = client.admin.command("replSetGetConfig")["config"]
        assert (config["_id"], config["settings"]["electionTimeoutMillis"]) == ("rs0", 2_000)

    # And a wrong administrator is told the remedy, and no password
    admin = machine.environment("database-setup")["MONGODB_ADMIN_URL"].replace("root-password", "hunter2")
    refused = machine.run("database-setup", setup, MONGODB_ADMIN_URL=admin)
    assert refused.returncode == 1
    assert refused.stderr.startswith("MONGODB_ADMIN_URL: MongoDB refuses this user and password.")
    assert "hunter2" not in refused.stderr

    # And a service that does not run is not healthy
    for name in ("receiver", "server"):
        assert machine.check(name).returncode == 1

    # When the services start, then their health checks turn green
    receiver = machine.start("receiver")
    machine.wait_for_line("receiver", "OTLP/gRPC on")
    server = machine.start("server")
    machine.wait_for_line("server", "pages on")
    worker = machine.start("worker")
    machine.wait_for_line("worker", "statistics of what arrives are being computed")
    for name in ("receiver", "server", "worker"):
        checked = machine.check(name)
        assert checked.returncode == 0, checked.stderr

    # And what is sent is there for the bearer of the token, and for nobody else
    send_one_request(machine.ports["receiver", 4317])
    projects = machine.get("/api/v1/projects", secrets["ADMIN_TOKEN"])["data"]["items"]
    assert [project["name"] for project in projects] == ["shop"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        machine.get("/api/v1/projects")

    # And its statistics are computed by the worker
    with MongoClient(url) as client:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not client.otel_pyinstrument.rollup_hours.count_documents({}):
            assert time.monotonic() < deadline, machine.log("worker")
            time.sleep(0.2)

    # And each stops within its bound when asked to
    for process in (worker, server, receiver, database):
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_SECONDS) == 0


@pytest.mark.timeout(900)  # the first time somebody has to build the Collector
def test_the_profiles_of_the_demo_come_through_the_collector(machine, otelcol, secrets) -> None:
    # Given the platform and the standard Collector, started as compose.yaml says
    machine.set_up()
    for name in ("receiver", "server"):
        machine.start(name)
        machine.wait_until_healthy(name)
    collector = machine.start("collector", otelcol)

    # And its health, which docs/operations.md asks the server's container for
    (question,) = re.findall(r"`docker compose exec server ([^`]+)`", OPERATIONS)
    machine.wait_for(lambda: machine.run("server", question.split()).returncode == 0, "collector")

    # When the shop opens and visitors come
    for name in ("supplier", "shop"):
        assert machine.check(name).returncode == 1
        machine.start(name)
        machine.wait_until_healthy(name)
    *_, supplier, shop = machine.running
    visitors = machine.start("visitors")

    # Then the slow page is there with its call tree
    def get(path):
        return machine.get(f"/api/v1{path}", secrets["ADMIN_TOKEN"])["data"]

    def slow_pages():
        records = get(f"/performance/records?project_key={project}")["items"]
        return [each for each in records if (each["top_function"] or "").startswith("score_baskets")]

    [item] = machine.wait_for(lambda: get("/projects")["items"], "shop")
    project = item["id"]
    record, *_ = machine.wait_for(slow_pages, "shop")
    detail = get(f"/performance/records/{record['id']}?project_key={project}")
    assert (item["name"], detail["version"], detail["environment"]) == ("flask-shop", "1.0.0", "demo")
    assert detail["function_calls"]

    # And the pages that ask the supplier are served
    availability = ["python", "-m", "all_in_one.probe", "http://shop:8080/products/1/availability"]
    assert machine.run("visitors", availability).returncode == 0

    # And all of it went through the Collector, whose queue is on its volume
    metrics = f"http://127.0.0.1:{machine.ports['collector', 8888]}/metrics"
    with urllib.request.urlopen(metrics, timeout=10) as answer:
        assert re.search(r"^otelcol_exporter_sent_spans\{.*\} [1-9]", answer.read().decode(), re.MULTILINE)
    assert any(machine.mounts("collector")["/queue"].iterdir())

    # And each stops when asked to
    for process in (visitors, shop, supplier, collector):
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_SECONDS) == 0
