"""Every supported server for real: all workers profile, and the tree is right.

The applications are without a line of ours. Where workers flush at their end nothing is exported before
SIGTERM, which is the hardest way to arrive. Those of uWSGI and granian may lose what waits then: there all
has arrived before. What is known of each server: docs/servers.md.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from otel_pyinstrument.call_tree import decode
from tests.free_ports import find_free_ports

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]

WORK = """
import time

def burn(seconds):
    began = time.perf_counter()
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))
    return time.perf_counter() - began

def planted():
    return burn(0.03)

def other():
    return burn(0.01)
"""

WSGI_APP = """
import os
from flask import Flask
from work import other, planted

app = Flask(__name__)

@app.get("/")
def view():
    return {"pid": os.getpid(), "planted": planted(), "other": other()}
"""

ASGI_APP = """
import asyncio
import os
from fastapi import FastAPI
from work import other, planted

app = FastAPI()

@app.get("/")
async def view():
    seconds = planted()
    await asyncio.sleep(0)
    return {"pid": os.getpid(), "planted": seconds, "other": other()}
"""


class Server(NamedTuple):
    command: tuple[str, ...]
    workers: int = 2
    code: int = 0
    """Of a process that was ended by SIGTERM."""
    flushes_at_exit: bool = True
    """Whether SIGTERM loses nothing of what waits to be exported."""
    resource_names_worker: bool = True


GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2")
UWSGI = (
    *("uwsgi", "--http-socket", "127.0.0.1:{port}", "--master", "--processes", "2", "--enable-threads"),
    *("--die-on-term", "--virtualenv", sys.prefix, "--module", "wsgi_app:app"),
    *("--worker-reload-mercy", "10"),  # a worker may hang: docs/servers.md
)
UVICORN = ("uvicorn", "--port", "{port}", "--log-level", "warning", "asgi_app:app")
GRANIAN = ("granian", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2", "--interface")

WITHOUT_FORK_HOOKS = "uWSGI without fork hooks"
SERVERS = {
    "gunicorn sync": Server((*GUNICORN, "wsgi_app:app")),
    "gunicorn gthread": Server((*GUNICORN, "--threads", "4", "wsgi_app:app")),
    "gunicorn gevent": Server((*GUNICORN, "--worker-class", "gevent", "wsgi_app:app")),
    "gunicorn --preload": Server((*GUNICORN, "--threads", "2", "--preload", "wsgi_app:app")),
    # Forks in C: only with this option it runs the hooks by which the SDK renews its resource.
    # Now and then a worker ends without its flush.
    "uWSGI": Server((*UWSGI, "--py-call-osafterfork"), flushes_at_exit=False),
    # Nobody tells Python of the fork: the SDK notices it with the first span of a worker.
    WITHOUT_FORK_HOOKS: Server(UWSGI, flushes_at_exit=False, resource_names_worker=False),
    "uWSGI with its own fork hooks": Server((*UWSGI, "--py-call-uwsgi-fork-hooks"), flushes_at_exit=False),
    # Raises the signal again when it has shut down.
    "uvicorn": Server(UVICORN, workers=1, code=-signal.SIGTERM),
    "uvicorn --workers": Server((*UVICORN, "--workers", "2")),
    "hypercorn": Server(("hypercorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "asgi_app:app")),
    # Its workers are children of multiprocessing, which run no exit handlers: the SDK cannot flush.
    "granian asgi": Server((*GRANIAN, "asgi", "asgi_app:app"), flushes_at_exit=False),
    "granian wsgi": Server((*GRANIAN, "wsgi", "wsgi_app:app"), flushes_at_exit=False),
}


NOT_FROM_3_12 = {
    "uWSGI": "uWSGI hangs in the fork, with and without us",
    WITHOUT_FORK_HOOKS: "nothing is profiled there: see the test for it",
}


@pytest.fixture
def site(tmp_path: Path, our_entry_points: Callable[[Path], None]) -> Path:
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "wsgi_app.py").write_text(WSGI_APP)
    (tmp_path / "asgi_app.py").write_text(ASGI_APP)
    our_entry_points(tmp_path)
    return tmp_path


@pytest.fixture
def served(site: Path, grpc_sink, wait_until) -> Callable[..., AbstractContextManager[int]]:
    """Runs a server under `opentelemetry-instrument`, ends it by SIGTERM, and gives its port."""

    @contextmanager
    def run(server: Server, *, profiles: bool = True, **variables: str) -> Iterator[int]:
        (port,) = find_free_ports(1)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
            "HOME": str(site),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process",
            "OTEL_EXPORTER_OTLP_ENDPOINT": grpc_sink.endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            # Not shorter: a uWSGI worker may hang if the master exports while it is forked.
            "OTEL_BSP_SCHEDULE_DELAY": "600000" if server.flushes_at_exit else "1000",
            "OTEL_PYINSTRUMENT_RATE": "1",
            "OTEL_PYINSTRUMENT_CPU_BUDGET": "1",
            "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "100",
            "OTEL_PYINSTRUMENT_INTERVAL": "1",
            **variables,
        }
        log = site / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["opentelemetry-instrument", *(part.format(port=port) for part in server.command)],
                cwd=site,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_until(listens, 60)
            yield port
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == server.code, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # a worker that hangs would outlive its master
                process.wait()
        text = log.read_text()
        assert str(ROOT / "otel_pyinstrument") not in text, text  # in no traceback
        assert text.count("Profiling is off in this process") == (0 if profiles else server.workers), text
        assert "A profile is incomplete" not in text, text

    return run


class Answer(NamedTuple):
    pid: int
    """Of the worker."""
    planted: float
    """What the function took, in seconds: more than its CPU time where others have the processor."""
    other: float


def ask(port: int) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/")
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert response.status == 200, content
    return Answer(**json.loads(content))


def profiles(sink) -> Iterator[tuple[int, dict[str, object]]]:
    """The pid in the resource, and the attributes of the profile."""
    for resource_spans in (each for request in list(sink.requests) for each in request.resource_spans):
        pid = next(e.value.int_value for e in resource_spans.resource.attributes if e.key == "process.pid")
        for span in (span for scope in resource_spans.scope_spans for span in scope.spans):
            for event in span.events:
                assert event.name == "pyinstrument.profile"
                yield pid, {e.key: getattr(e.value, e.value.WhichOneof("value")) for e in event.attributes}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def all_answer(port: int, workers: int, answers: list[Answer]) -> bool:
    """Whether each worker has; `answers` are all that there were."""
    with ThreadPoolExecutor(4) as clients:
        answers.extend(clients.map(lambda _: ask(port), range(8)))
    answered = len({answer.pid for answer in answers})
    if answered < workers:
        time.sleep(0.5)  # leave the processor to the worker that still starts
    return answered == workers


@pytest.fixture
def assert_profiled(grpc_sink, time_in) -> Callable[[Server, list[Answer]], None]:
    """Fails unless each request has arrived, from the worker that served it, with a right tree."""

    def check(server: Server, answers: list[Answer]) -> None:
        arrived = list(profiles(grpc_sink))
        answered = Counter(answer.pid for answer in answers)
        by_worker = Counter(json.loads(each["pyinstrument.facts"])["process"]["pid"] for _, each in arrived)
        assert by_worker == answered
        if server.resource_names_worker:
            assert Counter(pid for pid, _ in arrived) == answered
        # The function that was planted has its share: 30 ms to 10 ms where nobody else wants the processor.
        trees = [decode(each["pyinstrument.payload"]) for _, each in arrived]
        told = {name: sum(time_in(tree, name) for tree in trees) for name in ("planted", "other")}
        took = {name: sum(getattr(answer, name) for answer in answers) for name in told}
        share = took["planted"] / sum(took.values())
        assert told["planted"] / sum(told.values()) == pytest.approx(share, abs=0.15), (told, took)

    return check


@pytest.mark.parametrize("name", [name for name, server in SERVERS.items() if server.flushes_at_exit])
def test_every_worker_profiles_each_request_and_sigterm_loses_none(
    name: str, served, grpc_sink, wait_until, assert_profiled
) -> None:
    # Given an untouched application that is asked until each worker has answered
    server = SERVERS[name]
    answers: list[Answer] = []
    with served(server) as port:
        wait_until(lambda: all_answer(port, server.workers, answers), 100)

        # When SIGTERM ends it while profiles wait to be exported
        assert len(list(profiles(grpc_sink))) < len(answers)

    # Then there is a profile of each request
    wait_until(lambda: not any(is_running(answer.pid) for answer in answers))
    assert_profiled(server, answers)


@pytest.mark.parametrize("name", [name for name, server in SERVERS.items() if not server.flushes_at_exit])
def test_every_worker_profiles_each_request_where_sigterm_may_lose_what_waits(
    name: str, served, grpc_sink, wait_until, assert_profiled
) -> None:
    # Given an untouched application that is asked until each worker has answered
    server = SERVERS[name]
    if name in NOT_FROM_3_12 and sys.version_info >= (3, 12):
        pytest.skip(NOT_FROM_3_12[name])
    answers: list[Answer] = []
    with served(server) as port:
        wait_until(lambda: all_answer(port, server.workers, answers), 100)

        # When it has had the time to export, before SIGTERM ends it
        wait_until(lambda: len(list(profiles(grpc_sink))) == len(answers))

    # Then there is a profile of each request
    wait_until(lambda: not any(is_running(answer.pid) for answer in answers))
    assert_profiled(server, answers)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a hook looks at its own thread only")
def test_workers_that_uwsgi_forks_without_telling_python_serve_unprofiled(
    served, grpc_sink, wait_until
) -> None:
    # Given workers in which a profile hook would look for threads that have stayed in the master, and crash
    server = SERVERS[WITHOUT_FORK_HOOKS]
    answers: list[Answer] = []

    # When they serve, then each says once that it does not profile, and none dies
    with served(server, profiles=False) as port:
        wait_until(lambda: all_answer(port, server.workers, answers), 100)
        for _ in range(3):
            all_answer(port, server.workers, answers)
    assert len({answer.pid for answer in answers}) == server.workers
    assert not list(profiles(grpc_sink))


def test_a_gevent_worker_sends_what_the_last_one_left_in_the_spool(
    served, grpc_sink, site, wait_until, assert_profiled
) -> None:
    # Given a worker that ended while the backend took nothing. gunicorn lets gevent patch after it has forked
    spool = site / "spool"
    server = Server(("gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", "gevent", "wsgi_app:app"), 1)
    answers: list[Answer] = []
    grpc_sink.refuse_next = 1_000
    with served(server, OTEL_PYINSTRUMENT_SPOOL_DIR=str(spool), OTEL_EXPORTER_OTLP_TIMEOUT="1") as port:
        answers.append(ask(port))
    assert list(spool.rglob("*.otlp"))
    grpc_sink.requests.clear()
    grpc_sink.refuse_next = 0

    # When the next one serves, and is ended
    with served(server, OTEL_PYINSTRUMENT_SPOOL_DIR=str(spool), OTEL_BSP_SCHEDULE_DELAY="200") as port:
        answers.append(ask(port))
        wait_until(lambda: len(list(profiles(grpc_sink))) == len(answers))
        answers.append(ask(port))
        begun = time.monotonic()

    # Then all have arrived, nothing waits, and gunicorn had to kill nobody, as it does after 30 seconds
    assert time.monotonic() - begun < 25
    assert_profiled(server, answers)
    assert not list(spool.rglob("*.otlp"))
