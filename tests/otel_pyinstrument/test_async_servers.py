"""Applications without a line of ours, on real servers: FastAPI, Django in both worlds, and gevent."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from otel_pyinstrument.call_tree import CallTree, decode
from tests.free_ports import find_free_ports

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

WORK = """
import time

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))

def work_of_a():
    burn(0.03)

def work_of_b():
    burn(0.03)

def query():
    time.sleep(0.03)

WORK = {"a": work_of_a, "b": work_of_b}
"""

FASTAPI_APP = """
import asyncio
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from work import WORK, burn, query

app = FastAPI(**OPTIONS)

def login():
    burn(0.02)

@app.get("/async/{name}")
async def async_endpoint(name: str):
    for _ in range(3):
        WORK[name]()
        await asyncio.sleep(0.02)
    return name

@app.get("/def/{name}")
def def_endpoint(name: str, user=Depends(login)):
    WORK[name]()
    query()
    return name

@app.get("/stream/{name}")
async def stream(name: str):
    async def chunks():
        for _ in range(3):
            WORK[name]()
            await asyncio.sleep(0.01)
            yield name
    return StreamingResponse(chunks())

@app.get("/chunks/{name}")
async def sync_stream(name: str):
    def chunks():
        for _ in range(3):
            WORK[name]()
            yield name
    return StreamingResponse(chunks())

def afterwards():
    burn(0.02)

@app.get("/background/{name}")
async def background(name: str, tasks: BackgroundTasks):
    tasks.add_task(afterwards)
    WORK[name]()
    return name

@app.get("/events")
async def events():
    async def endless():
        while True:
            yield "data: tick\\n\\n"
            await asyncio.sleep(0.02)
    return StreamingResponse(endless(), media_type="text/event-stream")

@app.websocket("/ws")
async def websocket(connection: WebSocket):
    await connection.accept()
    while True:
        await connection.send_text(await connection.receive_text())
"""

DJANGO_APP = """
import asyncio
from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from work import WORK, query

def sync_view(request, name):
    WORK[name]()
    query()
    return HttpResponse(name)

async def async_view(request, name):
    WORK[name]()
    await asyncio.sleep(0.03)
    await sync_to_async(query)()
    return HttpResponse(name)

urlpatterns = [path("sync/<name>", sync_view), path("async/<name>", async_view)]
asgi = get_asgi_application()
wsgi = get_wsgi_application()
"""

DJANGO_SETTINGS = """
ROOT_URLCONF = "django_app"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "for the test"
MIDDLEWARE = []
"""

GEVENT_APP = """
import time
from flask import Flask
from work import WORK, query

app = Flask(__name__)

@app.get("/sync/<name>")
def view(name):
    for _ in range(3):
        WORK[name]()
        query()
    return name
"""


@pytest.fixture
def site(tmp_path: Path, our_entry_points: Callable[[Path], None]) -> Path:
    """A folder with the applications, and our entry points as an installed package would have them."""
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "fastapi_app.py").write_text("OPTIONS = {}\n" + FASTAPI_APP)
    silent = {"tracing": False, "metrics": False, "logs": False}
    (tmp_path / "fastapi_silent.py").write_text(f"OPTIONS = {{'telemetry': {silent}}}\n" + FASTAPI_APP)
    (tmp_path / "django_app.py").write_text(DJANGO_APP)
    (tmp_path / "django_settings.py").write_text(DJANGO_SETTINGS)
    (tmp_path / "gevent_app.py").write_text(GEVENT_APP)
    our_entry_points(tmp_path)
    return tmp_path


@pytest.fixture
def served(site: Path, grpc_sink, wait_until) -> Callable[..., AbstractContextManager[int]]:
    """Runs a server under `opentelemetry-instrument`; gives the port. `{port}` in the command is replaced."""

    @contextmanager
    def run(*command: str, **variables: str) -> Iterator[int]:
        (port,) = find_free_ports(1)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
            "PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)]),
            "HOME": str(site),
            "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
            "DJANGO_SETTINGS_MODULE": "django_settings",
            "OTEL_EXPORTER_OTLP_ENDPOINT": grpc_sink.endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_PYINSTRUMENT_RATE": "1",
            "OTEL_PYINSTRUMENT_CPU_BUDGET": "1",
            "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "100",
            **variables,
        }
        log = site / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["opentelemetry-instrument", *(part.format(port=port) for part in command)],
                cwd=site,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_until(answers, 60)
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        text = log.read_text()
        assert "Profiling is off" not in text, text
        assert "A profile is incomplete" not in text, text
        assert "otel_pyinstrument" not in text.replace("otel_pyinstrument-0", ""), text

    return run


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert response.status == 200, (path, content)
    return content


def profiles_of(span) -> list:
    return [event for event in span.events if event.name == "pyinstrument.profile"]


def attributes_of(span) -> dict[str, object]:
    (event,) = profiles_of(span)
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in event.attributes}


def tree_of(span) -> CallTree:
    tree = decode(attributes_of(span)["pyinstrument.payload"])
    tree.self_check()
    return tree


def functions(tree: CallTree) -> set[str]:
    return {frame.function for frame in tree.frames}


def path_to(tree: CallTree, function: str) -> list[str]:
    """The functions above the first node that shows `function`."""
    node = next(n for n in range(tree.node_count) if tree.frames[tree.frame[n]].function == function)
    path: list[str] = []
    while node > 0:
        path.append(tree.frames[tree.frame[node]].function)
        node = tree.parent[node]
    return path[::-1]


def path_of_request(span) -> str:
    return next(e.value.string_value for e in span.attributes if e.key in {"http.target", "url.path"})


def ask_at_once(port: int, paths: list[str]) -> None:
    with ThreadPoolExecutor(len(paths)) as clients:
        answers = list(clients.map(lambda path: get(port, path), paths))
    for path, answer in zip(paths, answers, strict=True):
        assert set(answer.decode().strip('"')) == {path[-1]}


def profiled(sink) -> list:
    return [span for span in sink.spans() if profiles_of(span)]


def assert_exact(span, time_in) -> CallTree:
    """The tree has the request's own work only, and its sum is the wall time of the span."""
    tree = tree_of(span)
    name = path_of_request(span)[-1]
    other = f"work_of_{'ba'['ab'.index(name)]}"
    assert other not in functions(tree)
    assert time_in(tree, f"work_of_{name}") > 0
    duration_us = attributes_of(span)["pyinstrument.duration"] * 1e6
    assert tree.duration_us == pytest.approx(duration_us, abs=1)
    wall_us = (span.end_time_unix_nano - span.start_time_unix_nano) / 1000
    assert tree.duration_us <= wall_us + 10_000
    assert not attributes_of(span)["pyinstrument.truncated"]
    return tree


def assert_whole(spans: list) -> None:
    """The trees have nearly all of the wall time of their spans, which is tens of milliseconds.

    Half of them of each kind: where threads compete, one may lose its turn just before sampling begins.
    """
    shares: dict[str, list[float]] = {}
    for span in spans:
        wall_us = (span.end_time_unix_nano - span.start_time_unix_nano) / 1000
        shares.setdefault(path_of_request(span)[:-1], []).append(tree_of(span).duration_us / wall_us)
    for path, of_path in shares.items():
        assert sorted(of_path)[len(of_path) // 2] >= 0.9, (path, of_path)


UVICORN = ("uvicorn", "--port", "{port}", "--log-level", "warning")
FASTAPI_TELEMETRY = {
    "its own": ("fastapi_app:app", {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi,starlette,asgi"}),
    "the instrumentation's": ("fastapi_silent:app", {}),
    "both": ("fastapi_app:app", {}),
}


@pytest.mark.parametrize("telemetry", FASTAPI_TELEMETRY)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_fastapi_requests_at_the_same_time_do_not_mix(
    loop: str, telemetry: str, served, grpc_sink, time_in, wait_until
) -> None:
    # When async and def endpoints are asked at the same time, a few each
    app, variables = FASTAPI_TELEMETRY[telemetry]
    paths = ["/async/a", "/async/b", "/def/a", "/def/b"]
    with served(*UVICORN, "--loop", loop, app, **variables) as port:
        for _ in range(3):
            ask_at_once(port, paths)
        wait_until(lambda: len(profiled(grpc_sink)) >= 12)

    # Then each tree is the request's own, and a request has one profile, however many spans
    spans = profiled(grpc_sink)
    assert len(spans) == 12
    assert len({span.trace_id for span in spans}) == len(spans)
    assert_whole(spans)
    for span in spans:
        tree = assert_exact(span, time_in)
        name = path_of_request(span)[-1]
        if path_of_request(span).startswith("/async"):
            assert "async_endpoint" in path_to(tree, f"work_of_{name}")
            assert time_in(tree, "[await]") > 30_000
        else:
            assert "def_endpoint" in path_to(tree, f"work_of_{name}")
            assert path_to(tree, "query")[-2:] == ["def_endpoint", "query"]


def test_streamed_bodies_belong_to_the_request_and_background_tasks_do_not(
    served, grpc_sink, time_in, wait_until
) -> None:
    # When bodies are streamed by async and by plain generators, and work is left for afterwards
    paths = ["/stream/a", "/stream/b", "/chunks/a", "/chunks/b", "/background/a", "/background/b"]
    with served(*UVICORN, "fastapi_app:app") as port:
        for path in paths:
            get(port, path)
        ask_at_once(port, paths)
        wait_until(lambda: len(profiled(grpc_sink)) >= 12)

    # Then the work of the generators is in the tree, and that of background tasks is in none
    assert len(profiled(grpc_sink)) == 12
    assert_whole(profiled(grpc_sink))
    for span in profiled(grpc_sink):
        tree = assert_exact(span, time_in)
        path, name = path_of_request(span)[:-1], path_of_request(span)[-1]
        assert "afterwards" not in functions(tree)
        if path == "/background/":
            assert "background" in path_to(tree, f"work_of_{name}")
        else:
            assert "chunks" in path_to(tree, f"work_of_{name}")


def test_a_websocket_is_profiled_up_to_the_limit_and_gives_its_place_back(
    served, grpc_sink, time_in, wait_until
) -> None:
    from websockets.sync.client import connect

    # Given a connection that stays open, and room for one profile at a time
    limits = {"OTEL_PYINSTRUMENT_MAX_DURATION": "1.5", "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "1"}
    with served(*UVICORN, "fastapi_app:app", **limits) as port:
        with connect(f"ws://127.0.0.1:{port}/ws") as connection:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                connection.send("hello")
                assert connection.recv() == "hello"
                time.sleep(0.03)

            # When another request comes meanwhile
            get(port, "/async/a")
            wait_until(lambda: profiled(grpc_sink))
            (other,) = profiled(grpc_sink)
        wait_until(lambda: len(profiled(grpc_sink)) == 2)

    # Then it has its profile, and the connection has one of its beginning
    assert_exact(other, time_in)
    (connection_span,) = [span for span in profiled(grpc_sink) if span.span_id != other.span_id]
    assert attributes_of(connection_span)["pyinstrument.truncated"] is True
    assert 1.5 <= attributes_of(connection_span)["pyinstrument.duration"] < 2


def test_an_event_stream_is_profiled_up_to_the_limit_and_gives_its_place_back(
    served, grpc_sink, time_in, wait_until
) -> None:
    # Given a client that reads an endless stream beyond the limit, and room for one profile at a time
    limits = {"OTEL_PYINSTRUMENT_MAX_DURATION": "0.5", "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "1"}
    with served(*UVICORN, "fastapi_app:app", **limits) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/events")
        stream = connection.getresponse()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert stream.readline() in {b"data: tick\n", b"\n"}

        # When another request comes meanwhile, and the client goes away
        get(port, "/async/a")
        wait_until(lambda: profiled(grpc_sink))
        (other,) = profiled(grpc_sink)
        stream.close()
        connection.close()
        wait_until(lambda: len(profiled(grpc_sink)) == 2)

    # Then it has its profile, and the stream has one of its beginning
    assert_exact(other, time_in)
    (stream_span,) = [span for span in profiled(grpc_sink) if span.span_id != other.span_id]
    assert attributes_of(stream_span)["pyinstrument.truncated"] is True
    assert 0.5 <= attributes_of(stream_span)["pyinstrument.duration"] < 1
    assert time_in(tree_of(stream_span), "[await]") > 250_000


DJANGO_SERVERS = {
    "wsgi": ("gunicorn", "--bind", "127.0.0.1:{port}", "--threads", "8", "django_app:wsgi"),
    "asgi": (*UVICORN, "django_app:asgi"),
}


@pytest.mark.parametrize("server", DJANGO_SERVERS)
def test_django_views_of_both_kinds_are_seen_in_both_worlds(
    server: str, served, grpc_sink, time_in, wait_until
) -> None:
    # When sync and async views are asked at the same time
    paths = ["/sync/a", "/sync/b", "/async/a", "/async/b"]
    with served(*DJANGO_SERVERS[server]) as port:
        for _ in range(3):
            ask_at_once(port, paths)
        wait_until(lambda: len(profiled(grpc_sink)) >= 12)

    # Then each view's work is below the view, wherever it ran
    assert len(profiled(grpc_sink)) == 12
    assert_whole(profiled(grpc_sink))
    for span in profiled(grpc_sink):
        tree = assert_exact(span, time_in)
        path, name = path_of_request(span)[:-1], path_of_request(span)[-1]
        view = "sync_view" if path == "/sync/" else "async_view"
        assert view in path_to(tree, f"work_of_{name}")
        assert path_to(tree, "query")[-1] == "query"
        assert view in path_to(tree, "query")
        # Once: the view cannot take longer than the request.
        assert time_in(tree, view) <= tree.duration_us
        if view == "async_view":
            # 30 ms each of work, of sleep and of the query.
            assert time_in(tree, "async_view") > 75_000


GEVENT_PATCHES = {
    "by the server": {},
    "before everything": {"OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH": "patch_all"},
}


@pytest.mark.parametrize("patched", GEVENT_PATCHES)
def test_greenlets_do_not_mix(patched: str, served, grpc_sink, time_in, wait_until) -> None:
    # When greenlets take turns on one thread, in the middle of their requests
    command = ("gunicorn", "--bind", "127.0.0.1:{port}", "--worker-class", "gevent", "gevent_app:app")
    with served(*command, **GEVENT_PATCHES[patched]) as port:
        for _ in range(3):
            ask_at_once(port, ["/sync/a", "/sync/b"])
        wait_until(lambda: len(profiled(grpc_sink)) == 6)

    # Then each tree is the request's own
    assert_whole(profiled(grpc_sink))
    for span in profiled(grpc_sink):
        tree = assert_exact(span, time_in)
        name = path_of_request(span)[-1]
        assert "view" in path_to(tree, f"work_of_{name}")
        assert time_in(tree, "query") > 60_000
