"""The real server process: how it starts, answers, loses its database, and stops."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx2
import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.model import IncomingBatch, IncomingRecord, Record

READY = "all_in_one.server: pages on "


@dataclass
class RunningServer:
    process: subprocess.Popen[str]
    url: str

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output, errors


def environment(**variables: str) -> dict[str, str]:
    ours = (
        "BIND_HOST",
        "HTTP_PORT",
        "LOG_LEVEL",
        "ADMIN_TOKEN",
        "MAX_REQUEST_SIZE",
        "ALLOWED_HOSTS",
        "ROLL_UP",
        "MONGODB_",
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "HTTP_PORT": "0", **variables}


def launch(**variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "all_in_one.server"],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refuse_to_start(**variables: str) -> str:
    """Start with settings that cannot work; returns what the user reads."""
    process = launch(**variables)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert output == ""
    assert "Traceback" not in errors
    return errors


@contextmanager
def server(**variables: str) -> Iterator[RunningServer]:
    process = launch(**variables)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(READY), process.communicate(timeout=30)[1]
        yield RunningServer(process, line.removeprefix(READY).split("/ and ")[0])
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def database(mongodb_url: str, mongodb_database: str) -> dict[str, str]:
    return {"MONGODB_URL": mongodb_url, "MONGODB_DATABASE": mongodb_database}


def make_record(project_id: str, started: datetime) -> Record:
    """A plausible request."""
    return Record(
        project_id=project_id,
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        parent_span_id=None,
        endpoint="GET /",
        method="GET",
        path="/",
        status_code=200,
        failed=False,
        duration=0.1,
        timestamp=started,
        start_time_unix_nano=int(started.timestamp() * 1e9),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_says_one_line_answers_and_stops(database: dict[str, str], number: signal.Signals) -> None:
    # Given a server that said that it is ready
    with server(**database) as running:
        # When all parts of it are asked
        api = httpx2.get(f"{running.url}/api/v1/projects")
        page = httpx2.get(f"{running.url}/")
        statuses = [httpx2.get(running.url + path).status_code for path in ("/health", "/ready")]

        # Then each answers in its own way, without a word about the software
        assert api.json()["data"]["items"] == []
        assert page.headers["content-type"].startswith("text/html")
        assert statuses == [200, 200]
        assert "server" not in api.headers

        # And a signal ends it with success and without noise
        code, output, errors = running.stop(number)
        assert (code, output, errors) == (0, "", "")


def test_the_server_computes_statistics_beside_answering(database: dict[str, str]) -> None:
    # Given a request that was stored while no server ran
    started = datetime.now(UTC) - timedelta(hours=2)

    async def write() -> None:
        async with open_store(StoreSettings(**database)) as store:
            record = make_record((await store.project_for_service("shop")).id, started)
            await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))

    asyncio.run(write())
    with MongoClient(database["MONGODB_URL"]) as client:
        collections = client[database["MONGODB_DATABASE"]]
        # When a server runs that must not, then nothing is computed
        with server(**database, ROLL_UP="false"):
            assert collections.rollup_marks.count_documents({}) == 1
        # When one runs that may
        with server(**database) as running:
            deadline = time.monotonic() + 60
            while collections.rollup_marks.count_documents({}):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            # Then the request is rolled up, and the server ends as usual
            assert [hour["count"] for hour in collections.rollup_hours.find()] == [1]
            code, output, errors = running.stop()
            assert (code, output) == (0, "")
            assert "Traceback" not in errors


def test_the_server_removes_what_a_deleted_project_left(database: dict[str, str]) -> None:
    # Given a project that was deleted by somebody who went away before its data was gone
    async def write_and_delete() -> None:
        async with open_store(StoreSettings(**database)) as store:
            project = await store.project_for_service("shop")
            record = make_record(project.id, datetime.now(UTC))
            await store.write(IncomingBatch(records=[IncomingRecord(record=record)]))
            await store.delete_project(project.id)

    asyncio.run(write_and_delete())
    with MongoClient(database["MONGODB_URL"]) as client:
        collections = client[database["MONGODB_DATABASE"]]
        assert collections.performance_records.count_documents({}) == 1
        # When a server runs
        with server(**database, ROLL_UP="false"):
            # Then its data goes without anybody asking
            wait_until(lambda: not collections.performance_records.count_documents({}))


def test_pages_and_api_have_their_own_content_security_policy(database: dict[str, str]) -> None:
    with server(**database) as running:
        api = httpx2.get(f"{running.url}/api/v1/projects").headers["content-security-policy"]
        page = httpx2.get(f"{running.url}/").headers["content-security-policy"]
    assert "script-src" not in api
    assert "script-src 'self'" in page


def test_pages_too_refuse_foreign_host_names(database: dict[str, str]) -> None:
    with server(**database, ALLOWED_HOSTS="shop.example") as running:
        assert httpx2.get(running.url, headers={"host": "evil.example"}).status_code == 403
        assert httpx2.get(running.url, headers={"host": "shop.example"}).status_code == 200


def test_a_mistyped_api_address_is_no_page(database: dict[str, str]) -> None:
    with server(**database) as running:
        for path in ("/api/v1/nothing", "/api/v2/projects", "/api/projects", "/api", "/api/", "/api/v1"):
            assert httpx2.get(running.url + path).json()["code"] == 1001


def test_a_compressible_answer_is_compressed_for_those_who_read_gzip(database: dict[str, str]) -> None:
    with server(**database) as running:
        document = f"{running.url}/api/v1/openapi.json"
        packed = httpx2.get(document, headers={"accept-encoding": "gzip"})
        plain = httpx2.get(document, headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 3
    assert packed.json() == plain.json()


def test_a_request_in_progress_is_finished_before_the_server_stops(database: dict[str, str]) -> None:
    # Given a client that has sent half of its body, and knows that the server reads it
    body = b'{"name": "shop"}'
    with server(**database) as running:
        address = urlsplit(running.url)
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            head = (
                "POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
            )
            client.sendall(head.encode())
            assert client.recv(100).startswith(b"HTTP/1.1 100")
            client.sendall(body[:5])

            # When the server is asked to stop and the rest comes
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not accepts(address.hostname, address.port))
            client.sendall(body[5:])

            # Then the client gets its answer
            assert client.recv(100).startswith(b"HTTP/1.1 201")
        _, errors = running.process.communicate(timeout=30)
        assert (running.process.returncode, errors) == (0, "")


def test_a_client_that_never_finishes_does_not_hold_the_server(database: dict[str, str]) -> None:
    # Given a client that stays silent in the middle of its request
    with server(**database) as running:
        address = urlsplit(running.url)
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            client.sendall(
                b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
            )
            assert client.recv(100).startswith(b"HTTP/1.1 100")

            # When the server is asked to stop
            # Then it waits for a while only
            code, _, errors = running.stop()
    assert code == 0
    assert "timeout graceful shutdown exceeded" in errors


def test_a_busy_port_is_named_with_the_remedy(database: dict[str, str]) -> None:
    # Given a port that somebody listens on
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        # When the server wants it
        told = refuse_to_start(**database, HTTP_PORT=str(port))

    # Then one line names the variable
    assert f"HTTP_PORT={port}" in told
    assert "choose another port" in told


def test_an_address_of_another_machine_is_named(database: dict[str, str]) -> None:
    told = refuse_to_start(**database, BIND_HOST="192.0.2.7")
    assert "BIND_HOST=192.0.2.7" in told


def test_a_name_that_does_not_resolve_is_named(database: dict[str, str]) -> None:
    told = refuse_to_start(**database, BIND_HOST="nowhere.invalid")
    assert "BIND_HOST=nowhere.invalid" in told


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("HTTP_PORT", "http", "HTTP_PORT=http: "),
        ("HTTP_PORT", "65536", "HTTP_PORT=65536: "),
        ("LOG_LEVEL", "loud", "LOG_LEVEL=loud: "),
        ("MAX_REQUEST_SIZE", "1", "MAX_REQUEST_SIZE=1: "),
        ("ADMIN_TOKEN", "hunter2", "ADMIN_TOKEN=***: "),
        ("MONGODB_URL", "hunter2", "MONGODB_URL=***: "),
        ("MONGODB_DATABASE", "a/b", "MONGODB_DATABASE=a/b: "),
    ],
)
def test_a_bad_setting_is_named_and_a_secret_one_not_shown(variable: str, value: str, shown: str) -> None:
    told = refuse_to_start(**{variable: value})
    assert shown in told
    assert "hunter2" not in told


def test_every_bad_setting_is_told_at_once() -> None:
    told = refuse_to_start(HTTP_PORT="x", LOG_LEVEL="loud", MONGODB_DATABASE="a/b")
    assert [line.split("=")[0] for line in told.splitlines()[1:]] == [
        "HTTP_PORT",
        "LOG_LEVEL",
        "MONGODB_DATABASE",
    ]


def test_an_empty_variable_means_the_default(database: dict[str, str]) -> None:
    with server(**database, ADMIN_TOKEN="", LOG_LEVEL="", BIND_HOST="", ALLOWED_HOSTS="") as running:
        assert running.url.startswith("http://127.0.0.1:")


def test_a_file_that_the_address_of_the_database_names_and_that_is_missing_is_named() -> None:
    told = refuse_to_start(MONGODB_URL="mongodb://127.0.0.1/?tls=true&tlsCAFile=/nowhere/ca.pem")
    assert "MONGODB_URL is not usable: its file /nowhere/ca.pem cannot be read" in told


def test_without_a_database_the_server_does_not_start() -> None:
    assert "MONGODB_URL" in refuse_to_start()


def test_a_database_that_does_not_answer_is_told_without_its_password() -> None:
    # Given an address where nothing listens
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    told = refuse_to_start(MONGODB_URL=f"mongodb://root:hunter2@127.0.0.1:{port}/?directConnection=true")
    assert "hunter2" not in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_database_is_waited_for_ends_the_server_at_once(number: signal.Signals) -> None:
    # Given a server that waits for the answer of its database, for 8 seconds
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = launch(MONGODB_URL=f"mongodb://127.0.0.1:{silent.getsockname()[1]}/")
        silent.accept()
        began = time.monotonic()

        # When a signal comes
        process.send_signal(number)

        # Then it has stopped as asked, without noise
        assert (*process.communicate(timeout=30), process.returncode) == ("", "", 0)
        assert time.monotonic() - began < 6


def test_while_the_database_is_away_requests_fail_temporarily_and_then_work_again(
    database: dict[str, str], mongodb_url: str
) -> None:
    # Given a server whose way to MongoDB can be cut
    with Wire(mongodb_url) as wire, server(**{**database, "MONGODB_URL": wire.url}) as running:
        assert httpx2.get(f"{running.url}/ready").status_code == 200

        # When it is cut
        wire.cut()
        ready = httpx2.get(f"{running.url}/ready", timeout=30)
        api = httpx2.get(f"{running.url}/api/v1/projects", timeout=30)
        page = httpx2.get(f"{running.url}/", timeout=30)
        alive = httpx2.get(f"{running.url}/health")

        # Then the process lives, says that it is not ready, and asks for patience
        assert [answer.status_code for answer in (ready, api, page, alive)] == [503, 503, 503, 200]
        assert (ready.json()["code"], api.json()["code"]) == (1006, 1006)
        assert api.headers["retry-after"].isdecimal()

        # And when it is mended, all works again without a restart
        wire.mend()
        wait_until(lambda: httpx2.get(f"{running.url}/ready", timeout=30).status_code == 200)
        assert httpx2.get(f"{running.url}/api/v1/projects", timeout=30).status_code == 200


def accepts(host: str | None, port: int | None) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], *, limit_seconds: float = 60) -> None:
    end = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.05)


@dataclass
class Wire:
    """A TCP forwarder to a MongoDB server that can be cut and mended."""

    mongodb_url: str
    listener: socket.socket = field(init=False)
    whole: bool = True
    connections: list[socket.socket] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Wire:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join()
        self.cut()
        for thread in self.threads:
            thread.join()
        for each in (self.listener, *self.connections):
            each.close()

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.listener.getsockname()[1]}/?directConnection=true"

    def cut(self) -> None:
        self.whole = False
        for connection in self.connections:
            shut(connection)

    def mend(self) -> None:
        self.whole = True

    def _accept(self) -> None:
        target = urlsplit(self.mongodb_url)
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if not self.whole:
                client.close()
                continue
            database = socket.create_connection((target.hostname, target.port))
            self.connections += [client, database]
            self._run(forward, client, database)
            self._run(forward, database, client)

    def _run(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self.threads.append(thread)


def forward(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        shut(source)
        shut(sink)


def shut(connection: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)
