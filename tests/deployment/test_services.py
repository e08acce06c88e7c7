"""The commands, settings and health checks of compose.yaml, run on this machine with a real MongoDB."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.free_ports import find_free_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 60

# Names of loopback that neither takes for loopback: what an open address asks for is asked for here too.
BIND_HOSTS = {"receiver": "LOCALHOST", "server": "127.1"}

# What the image's own entry point does: the first start makes the administrator, without access control and
# where nobody else reaches it.
ENTRYPOINT = """#!{python}
import os, subprocess, sys
from pathlib import Path
from pymongo import MongoClient
data = "{data}/db"
place = ["--dbpath", data, "--port", "{port}", "--nounixsocket", "--bind_ip"]
Path(data).mkdir(exist_ok=True)
if not any(Path(data).iterdir()):
    first = subprocess.Popen(["{mongod}", *place, "127.0.0.2"], stdout=subprocess.DEVNULL)
    with MongoClient("127.0.0.2", {port}) as client:
        user, password = os.environ["MONGO_INITDB_ROOT_USERNAME"], os.environ["MONGO_INITDB_ROOT_PASSWORD"]
        client.admin.command("createUser", user, pwd=password, roles=["root"])
    first.terminate()
    first.wait()
assert sys.argv[1] == "mongod"
os.execv("{mongod}", ["mongod", *sys.argv[2:], "--auth", "--oplogSize", "64", *place, "127.0.0.1"])
"""


class Machine:
    """Stands for the containers: one address for all, other ports, the same commands and settings."""

    def __init__(self, compose: dict[str, Any], image: dict[str, str], directory: Path, mongod: Path) -> None:
        self.services = compose["services"]
        self.image, self.directory = image, directory
        names = ("mongodb", "grpc", "http", "web")
        self.ports = dict(zip(names, find_free_ports(len(names)), strict=True))
        self.running: list[subprocess.Popen[str]] = []
        (directory / "configdb").mkdir()
        entrypoint = directory / "bin" / "docker-entrypoint.sh"
        entrypoint.parent.mkdir()
        entrypoint.write_text(
            ENTRYPOINT.format(
                python=sys.executable, data=directory, port=self.ports["mongodb"], mongod=mongod
            )
        )
        entrypoint.chmod(0o755)

    def here(self, text: str) -> str:
        """A command or setting with the addresses of this machine."""
        return (
            text.replace("mongodb:27017", f"127.0.0.1:{self.ports['mongodb']}")
            .replace("127.0.0.1:8000", f"127.0.0.1:{self.ports['web']}")
            .replace("127.0.0.1:4318", f"127.0.0.1:{self.ports['http']}")
            .replace("/data/", f"{self.directory}/")
        )

    def environment(self, name: str) -> dict[str, str]:
        given = {key: self.here(value) for key, value in self.services[name].get("environment", {}).items()}
        path = os.pathsep.join(
            [str(self.directory / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        ports = {
            "OTLP_GRPC_PORT": str(self.ports["grpc"]),
            "OTLP_HTTP_PORT": str(self.ports["http"]),
            "HTTP_PORT": str(self.ports["web"]),
        }
        coverage = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE")}
        return coverage | self.image | given | ports | {"PATH": path, "BIND_HOST": BIND_HOSTS.get(name, "")}

    def run(self, name: str, command: Sequence[str], **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.here(word) for word in command],
            env=self.environment(name) | changes,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )

    def start(self, name: str) -> subprocess.Popen[str]:
        log = (self.directory / f"{name}.log").open("w")
        with log:
            process = subprocess.Popen(
                [self.here(word) for word in self.services[name]["command"]],
                env=self.environment(name),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.running.append(process)
        return process

    def check(self, name: str) -> subprocess.CompletedProcess[str]:
        return self.run(name, self.services[name]["healthcheck"]["test"][1:])

    def wait_for_line(self, name: str, text: str) -> None:
        """Until the service that was started last has written this."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while text not in (log := (self.directory / f"{name}.log").read_text()):
            assert time.monotonic() < deadline, log
            assert self.running[-1].poll() is None, log
            time.sleep(0.05)

    def get(self, path: str, token: str = "") -> Any:
        url = f"http://127.0.0.1:{self.ports['web']}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())


@pytest.fixture
def machine(compose, stages, tmp_path, mongod_executable) -> Iterator[Machine]:
    image = dict(pair.split("=", 1) for each in stages[-1] if each.name == "ENV" for pair in each.words)
    machine = Machine(compose, image, tmp_path, mongod_executable)
    yield machine
    for process in machine.running[::-1]:
        process.kill()
        process.wait()


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
    key = machine.directory / "configdb" / "keyfile"

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
    send_one_request(machine.ports["grpc"])
    projects = machine.get("/api/v1/projects", secrets["ADMIN_TOKEN"])["data"]["items"]
    assert [project["name"] for project in projects] == ["shop"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        machine.get("/api/v1/projects")

    # And its statistics are computed by the worker
    with MongoClient(url) as client:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not client.otel_pyinstrument.rollup_hours.count_documents({}):
            assert time.monotonic() < deadline, (machine.directory / "worker.log").read_text()
            time.sleep(0.2)

    # And each stops within its bound when asked to
    for process in (worker, server, receiver, database):
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_SECONDS) == 0
