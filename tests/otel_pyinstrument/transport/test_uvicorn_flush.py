"""uvicorn in own processes, ended as by a process manager."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn

from otel_pyinstrument.settings import Settings
from otel_pyinstrument.transport import delivery, uvicorn_flush
from otel_pyinstrument.transport.uvicorn_flush import UvicornFlush
from tests.free_ports import find_free_ports

REPOSITORY = Path(__file__).parents[3]
BIN = Path(sys.executable).parent

APP = """
import asyncio, time
from opentelemetry import trace
from opentelemetry.trace import SpanKind

tracer = trace.get_tracer("app")

def work():
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            sum(range(200))

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    await asyncio.get_running_loop().run_in_executor(None, work)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
"""


# Workers that need more than 5 s for their imports, on a busy machine, would be ended and begun anew.
WORKERS = ("--workers", "2", "--timeout-worker-healthcheck", "60")


class Uvicorn:
    """One run of `uvicorn app:app`; what it exports in less than a minute it exports because it ends."""

    def __init__(
        self, directory: Path, endpoint: str, *options: str, instrumented=True, **variables: str
    ) -> None:
        (directory / "app.py").write_text(APP)
        (self.port,) = find_free_ports(1)
        self.log = directory / "log"
        command = ["opentelemetry-instrument"] if instrumented else []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | {
            "PYTHONPATH": os.pathsep.join([str(directory), str(REPOSITORY)]),
            "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi,flask,requests,sqlite3,jinja2",
            "OTEL_PYINSTRUMENT_RATE": "1",
            "OTEL_PYINSTRUMENT_CPU_BUDGET": "1",
            "OTEL_PYINSTRUMENT_INTERVAL": "2",
            **variables,
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "uvicorn", "--port", str(self.port), *options, "app:app"],
                cwd=directory,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def get(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()

    def end(self, sent: signal.Signals) -> int:
        self.process.send_signal(sent)
        return self.process.wait(60)


@pytest.fixture
def serve(tmp_path, wait_until):
    started = []

    def start(endpoint, *options, **keywords) -> Uvicorn:
        server = Uvicorn(tmp_path, endpoint, *options, **keywords)
        started.append(server)
        wait_until(server.answers, 60)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.mark.integration
@pytest.mark.parametrize("options", [(), WORKERS], ids=["single", "workers"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_last_spans_and_profiles_survive(sent, options, serve, grpc_backend) -> None:
    if options and metadata.version("opentelemetry-instrumentation") < "0.66":
        pytest.skip("older versions of opentelemetry-instrument do not reach uvicorn's workers")
    # Given how uvicorn ends without us
    plain = serve(grpc_backend.endpoint, *options, instrumented=False)
    plain.get()
    expected = plain.end(sent)

    # When it ends with spans in the queue
    server = serve(grpc_backend.endpoint, *options)
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(lambda _: server.get(), range(8)))
    assert grpc_backend.spans == []
    code = server.end(sent)

    # Then it ends the same way, and everything has arrived
    assert code == expected
    assert len(grpc_backend.spans) == 8
    assert any(event.name == "pyinstrument.profile" for span in grpc_backend.spans for event in span.events)


BOUND_SECONDS = {"without a spool": 5, "with a spool": 12}
"""As in docs/transport.md."""


@pytest.mark.integration
@pytest.mark.parametrize("spooling", BOUND_SECONDS)
def test_an_absent_backend_delays_the_end_by_about_the_documented_time(
    spooling, serve, grpc_backend, tmp_path
) -> None:
    # Given an exporter that tries for half a minute, and a backend that does not answer
    grpc_backend.stop()
    settings = {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
    if spooling == "with a spool":
        settings["OTEL_PYINSTRUMENT_SPOOL_DIR"] = str(tmp_path / "spool")

    def seconds_of_the_end(**variables: str) -> float:
        server = serve(grpc_backend.endpoint, **settings, **variables)
        server.get()
        begun = time.monotonic()
        assert server.end(signal.SIGTERM) == -signal.SIGTERM
        return time.monotonic() - begun

    # When the same server ends without us, and with us
    alone = seconds_of_the_end(OTEL_PYINSTRUMENT_ENABLED="false")
    with_us = seconds_of_the_end()

    # Then that is what we add; a machine that is busy with other things may make nearly twice as much of it
    assert BOUND_SECONDS[spooling] - 1 < with_us - alone < 1.9 * BOUND_SECONDS[spooling]


@pytest.mark.parametrize("spooling", BOUND_SECONDS)
def test_a_flush_that_does_not_return_delays_the_end_by_the_documented_time_at_most(
    spooling, tmp_path, monkeypatch
) -> None:
    # Given a provider whose flush hangs, and a clock that only waiting moves
    released = threading.Event()
    provider = SimpleNamespace(force_flush=lambda: released.wait(60))
    settings = Settings(spool_dir=str(tmp_path)) if spooling == "with a spool" else Settings()
    server = wrapped_by(delivery.Delivery(provider, settings)._flush)
    waited = [0.0]

    async def wait(seconds: float) -> None:
        waited.append(waited[-1] + seconds)

    monkeypatch.setattr(uvicorn_flush, "time", SimpleNamespace(monotonic=lambda: waited[-1]))
    monkeypatch.setattr(asyncio, "sleep", wait)

    # When uvicorn ends by SIGTERM
    asyncio.run(server(signal.SIGTERM).shutdown())
    released.set()

    # Then it waits until the limit, and begins no wait after it
    limit = BOUND_SECONDS[spooling]
    assert waited[-2] < limit <= waited[-1] <= limit + uvicorn_flush._POLL_SECONDS


def test_the_documentation_names_the_bounds() -> None:
    text = " ".join((REPOSITORY / "docs" / "transport.md").read_text("utf-8").split())

    assert "It takes 5 seconds at most (12 with a spool" in text
    assert list(BOUND_SECONDS.values()) == [delivery._FLUSH_SECONDS, delivery._SPOOLING_FLUSH_SECONDS]


@pytest.mark.integration
def test_an_absent_backend_loses_nothing_with_a_spool(serve, grpc_backend, tmp_path) -> None:
    # Given
    grpc_backend.stop()
    spool = tmp_path / "spool"
    server = serve(
        grpc_backend.endpoint, OTEL_PYINSTRUMENT_SPOOL_DIR=str(spool), OTEL_EXPORTER_OTLP_TIMEOUT="2"
    )
    server.get()

    # When
    code = server.end(signal.SIGTERM)

    # Then
    assert code == -signal.SIGTERM
    assert len(list(spool.rglob("*.otlp"))) == 1


class Server:
    """Stands for `uvicorn.Server` where only its shutdown matters."""

    force_exit = False

    def __init__(self, *signals: int) -> None:
        self._captured_signals = list(signals)

    async def shutdown(self, sockets: object = None) -> object:
        return sockets


def wrapped_by(flusher: UvicornFlush, shutdown=Server.shutdown) -> type[Server]:
    made = type("Server", (Server,), {"shutdown": shutdown})
    flusher._installed = True
    flusher._wrap_server(made)
    return made


def wrapped(flush, limit_seconds: float = 5, shutdown=Server.shutdown):
    flusher = UvicornFlush(flush, limit_seconds=limit_seconds)
    return wrapped_by(flusher, shutdown), flusher


def test_only_sigterm_needs_it() -> None:
    flushed = []
    server, _ = wrapped(lambda: flushed.append(1))

    assert asyncio.run(server(signal.SIGINT).shutdown("sockets")) == "sockets"
    assert flushed == []
    assert asyncio.run(server(signal.SIGTERM).shutdown(sockets="s")) == "s"
    assert flushed == [1]


def test_a_flush_that_hangs_is_left_behind() -> None:
    server, _ = wrapped(lambda: time.sleep(3), limit_seconds=0.1)

    begun = time.monotonic()
    asyncio.run(server(signal.SIGTERM).shutdown())

    assert time.monotonic() - begun < 2


def test_a_second_signal_ends_the_wait() -> None:
    server, _ = wrapped(lambda: time.sleep(3))
    impatient = server(signal.SIGTERM)
    impatient.force_exit = True

    begun = time.monotonic()
    asyncio.run(impatient.shutdown())

    assert time.monotonic() - begun < 2


def test_a_flush_that_fails_changes_nothing() -> None:
    server, _ = wrapped(lambda: 1 / 0)

    assert asyncio.run(server(signal.SIGTERM).shutdown("sockets")) == "sockets"


def test_an_error_of_uvicorn_stays_its_error() -> None:
    flushed = []

    async def fails(self, sockets=None):
        raise OSError("of uvicorn")

    server, _ = wrapped(lambda: flushed.append(1), shutdown=fails)

    with pytest.raises(OSError, match="of uvicorn"):
        asyncio.run(server(signal.SIGTERM).shutdown())
    assert flushed == [1]


def test_uvicorn_gets_its_method_back() -> None:
    before = uvicorn.Server.shutdown
    flusher = UvicornFlush(lambda: None, limit_seconds=1)

    flusher.install()
    assert uvicorn.Server.shutdown is not before
    flusher.uninstall()

    assert uvicorn.Server.shutdown is before


def test_installing_does_not_import_uvicorn() -> None:
    script = (
        "import sys\n"
        "from otel_pyinstrument.transport.uvicorn_flush import UvicornFlush\n"
        "flusher = UvicornFlush(lambda: None, limit_seconds=1)\n"
        "flusher.install()\n"
        "assert 'uvicorn' not in sys.modules\n"
        "import uvicorn\n"
        "assert uvicorn.Server.shutdown.__module__ == 'uvicorn.server'\n"
        "assert hasattr(uvicorn.Server.shutdown, '__wrapped__')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)
