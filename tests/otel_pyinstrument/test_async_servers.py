"""Applications without a line of ours, on real servers: FastAPI, Django in both worlds, and gevent."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from statistics import median

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
import time
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

def begin():
    time.sleep(0.02)

def commit():
    time.sleep(0.02)

def transaction():
    begin()
    yield
    commit()

def lend():
    time.sleep(0.02)

def give_back():
    time.sleep(0.02)

def connection():
    lend()
    yield
    give_back()

@app.get("/depends/{name}")
async def depends(
    name: str,
    user=Depends(login),
    lent=Depends(connection),
    begun=Depends(transaction, scope="function"),
):
    WORK[name]()
    return name

@app.get("/users/{name}")
async def user(name: str):
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
        waited = 0.0
        while True:
            yield f"data: {waited * 1e6} {time.time_ns()}\\n\\n"
            start = time.perf_counter()
            await asyncio.sleep(0.02)
            waited += time.perf_counter() - start
    return StreamingResponse(endless(), media_type="text/event-stream")

@app.websocket("/ws")
async def websocket(connection: WebSocket):
    await connection.accept()
    while True:
        message = await connection.receive_text()
        await asyncio.sleep(0.02)
        await connection.send_text(f"{message} {time.time_ns()}")
"""

DJANGO_APP = """
import asyncio
from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import models
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from work import WORK, query

asgi = get_asgi_application()
wsgi = get_wsgi_application()

class Item(models.Model):
    name = models.CharField(max_length=1, primary_key=True)

    class Meta:
        app_label = "shop"

def slowly(execute, *statement):
    query()
    return execute(*statement)

@receiver(connection_created)
def slow_down(connection, **_):
    connection.execute_wrappers[:] = [slowly]

def sync_view(request, name):
    WORK[name]()
    query()
    return HttpResponse(name)

async def async_view(request, name):
    WORK[name]()
    await asyncio.sleep(0.03)
    await sync_to_async(query)()
    return HttpResponse(name)

async def orm_view(request, name):
    WORK[name]()
    assert await Item.objects.acount() == 2
    item = await Item.objects.aget(pk=name)
    return HttpResponse(item.name)

async def stream_view(request, name):
    async def chunks():
        for _ in range(2):
            WORK[name]()
            await asyncio.sleep(0.01)
            item = await Item.objects.aget(pk=name)
            yield item.name
    WORK[name]()
    return StreamingHttpResponse(chunks())

def sync_stream_view(request, name):
    def chunks():
        for _ in range(2):
            query()
            yield name
    WORK[name]()
    return StreamingHttpResponse(chunks())

urlpatterns = [
    path("sync/<name>", sync_view),
    path("chunks/<name>", sync_stream_view),
    path("async/<name>", async_view),
    path("orm/<name>", orm_view),
    path("stream/<name>", stream_view),
]
"""

DJANGO_WRAPPED = """
from django_app import asgi, wsgi
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from otel_pyinstrument import ASGIMiddleware, WSGIMiddleware

ours = ASGIMiddleware(asgi)
theirs = OpenTelemetryMiddleware(asgi)
ours_on_threads = WSGIMiddleware(wsgi)
"""

DJANGO_SETTINGS = """
from pathlib import Path

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(__file__).with_name("shop.sqlite3"),
    }
}
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
    (tmp_path / "django_wrapped.py").write_text(DJANGO_WRAPPED)
    with closing(sqlite3.connect(tmp_path / "shop.sqlite3")) as database:
        database.executescript("CREATE TABLE shop_item (name TEXT PRIMARY KEY)")
        database.executescript("INSERT INTO shop_item VALUES ('a'), ('b')")
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


def paths_to(tree: CallTree, function: str) -> list[list[str]]:
    """The functions above each node that shows `function`, and itself."""
    paths: list[list[str]] = []
    for shown in range(tree.node_count):
        if tree.frames[tree.frame[shown]].function == function:
            node, path = shown, []
            while node > 0:
                path.append(tree.frames[tree.frame[node]].function)
                node = tree.parent[node]
            paths.append(path[::-1])
    return paths


def path_to(tree: CallTree, function: str) -> list[str]:
    return paths_to(tree, function)[0]


def calls_above(tree: CallTree, function: str, count: int) -> set[tuple[str, ...]]:
    """The nearest `count` callers of each node that shows `function`, without their classes."""
    return {
        tuple(caller.rpartition(".")[2] for caller in path[:-1][-count:]) for path in paths_to(tree, function)
    }


def path_of_request(span) -> str:
    return next(e.value.string_value for e in span.attributes if e.key in {"http.target", "url.path"})


def ask_at_once(port: int, paths: list[str]) -> None:
    with ThreadPoolExecutor(len(paths)) as clients:
        answers = list(clients.map(lambda path: get(port, path), paths))
    for path, answer in zip(paths, answers, strict=True):
        assert set(answer.decode().strip('"')) == {path[-1]}


def profiled(sink) -> list:
    return [span for span in sink.spans() if profiles_of(span)]


def wall_us(span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1000


def late_us(span) -> float:
    """How much longer than the span its profile is at least."""
    return tree_of(span).duration_us - wall_us(span)


def assert_exact(span, time_in) -> CallTree:
    """The tree has the request's own work only, and its sum is the wall time of the span."""
    tree = tree_of(span)
    name = path_of_request(span)[-1]
    other = f"work_of_{'ba'['ab'.index(name)]}"
    assert other not in functions(tree)
    assert time_in(tree, f"work_of_{name}") > 0
    duration_us = attributes_of(span)["pyinstrument.duration"] * 1e6
    assert tree.duration_us == pytest.approx(duration_us, abs=1)
    assert late_us(span) <= 1_000
    assert not attributes_of(span)["pyinstrument.truncated"]
    return tree


def assert_whole(spans: list) -> None:
    """The trees have nearly all of the wall time of their spans, which is tens of milliseconds.

    Half of them of each kind: where threads compete, one may lose its turn just before sampling begins.
    """
    shares: dict[str, list[float]] = {}
    for span in spans:
        shares.setdefault(path_of_request(span)[:-1], []).append(tree_of(span).duration_us / wall_us(span))
    for path, of_path in shares.items():
        assert median(of_path) >= 0.95, (path, of_path)


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


def test_def_dependencies_stand_below_the_call_that_awaits_them(
    served, grpc_sink, time_in, wait_until
) -> None:
    # When endpoints are asked whose dependencies run in threads, their generators at both ends
    with served(*UVICORN, "fastapi_app:app") as port:
        for _ in range(3):
            ask_at_once(port, ["/depends/a", "/depends/b", "/def/a", "/def/b"])
        wait_until(lambda: len(profiled(grpc_sink)) >= 12)

    # Then each has its time where it is awaited
    assert len(profiled(grpc_sink)) == 12
    assert_whole(profiled(grpc_sink))
    for span in profiled(grpc_sink):
        tree = assert_exact(span, time_in)
        assert calls_above(tree, "login", 2) == {("solve_dependencies", "run_in_threadpool")}
        if path_of_request(span).startswith("/depends"):
            in_thread = ("contextmanager_in_threadpool", "run_in_threadpool", "__enter__")
            assert calls_above(tree, "begin", 4) == {(*in_thread, "transaction")}
            assert calls_above(tree, "lend", 4) == {(*in_thread, "connection")}
            assert calls_above(tree, "commit", 3) == {
                ("contextmanager_in_threadpool", "__exit__", "transaction")
            }
            waited = [time_in(tree, function) for function in ("begin", "lend", "commit")]
            assert min(waited) > 19_000
            # Once: nothing of this runs side by side.
            assert sum(waited) + time_in(tree, "login") + time_in(tree, "depends") <= tree.duration_us
            # And what is given back after the answer is no part of the request
            assert "give_back" not in functions(tree)


def test_paths_with_fifty_names_are_one_endpoint_after_the_first(served, grpc_sink, wait_until) -> None:
    # Given FastAPI's own telemetry, whose spans have a route at their end, and profiles of new endpoints only
    app, variables = FASTAPI_TELEMETRY["its own"]
    rates = {"RATE": "0.000001", "SLOW_RATE": "0", "ERROR_RATE": "0"}
    variables = variables | {f"OTEL_PYINSTRUMENT_{name}": rate for name, rate in rates.items()}
    names = [f"{first}-{last}" for first in "abcde" for last in "klmnopqrst"]

    def requests() -> list:
        return [span for span in grpc_sink.spans() if span.parent_span_id == b""]

    # When fifty names are asked for twice each
    with served(*UVICORN, app, **variables) as port:
        for name in names * 2:
            assert get(port, f"/users/{name}") == f'"{name}"'.encode()
        wait_until(lambda: len(requests()) == 100)

    # Then one of them has the profile of a new endpoint: the first had a path, the second the route
    assert [path_of_request(span) for span in profiled(grpc_sink)] == [f"/users/{names[2]}"]
    assert {span.name for span in requests()} == {"GET /users/{name}"}


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


def ask_one_after_the_other(port: int, path: str, grpc_sink, wait_until) -> list:
    """The spans of five requests, each asked when the one before has its profile."""
    for number in range(5):
        get(port, path)
        wait_until(lambda number=number: len(profiled(grpc_sink)) == number + 1)
    return profiled(grpc_sink)


def spans_besides(others: list, grpc_sink) -> list:
    ids = {span.span_id for span in others}
    return [span for span in profiled(grpc_sink) if span.span_id not in ids]


def test_a_websocket_is_profiled_up_to_the_limit_and_gives_its_place_back(
    served, grpc_sink, time_in, wait_until
) -> None:
    from websockets.sync.client import connect

    # Given a connection that stays open, and room for one profile at a time
    limits = {"OTEL_PYINSTRUMENT_MAX_DURATION": "1.5", "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "1"}
    with served(*UVICORN, "fastapi_app:app", **limits) as port:
        with connect(f"ws://127.0.0.1:{port}/ws") as connection:
            answered_ns = []
            for _ in range(100):  # 20 ms each
                connection.send("hello")
                hello, at_ns = connection.recv().split()
                assert hello == "hello"
                answered_ns.append(int(at_ns))

            # When others come meanwhile, one after the other
            others = ask_one_after_the_other(port, "/async/a", grpc_sink, wait_until)
        wait_until(lambda: len(profiled(grpc_sink)) == len(others) + 1)

    # Then each has its profile, and the connection has one of its beginning
    assert_whole(others)
    for other in others:
        assert_exact(other, time_in)
    (connection_span,) = spans_besides(others, grpc_sink)
    assert attributes_of(connection_span)["pyinstrument.truncated"] is True
    duration = attributes_of(connection_span)["pyinstrument.duration"]
    assert 1.5 <= duration <= wall_us(connection_span) / 1e6
    # And no more answers than there is time for up to the limit; loops also round down to milliseconds
    end_ns = connection_span.start_time_unix_nano + duration * 1e9
    assert sum(at_ns <= end_ns for at_ns in answered_ns) <= 1.5 / 0.019 + 2


def test_an_event_stream_is_profiled_up_to_the_limit_and_gives_its_place_back(
    served, grpc_sink, time_in, wait_until
) -> None:
    # Given a client that reads an endless stream beyond the limit, and room for one profile at a time
    limits = {"OTEL_PYINSTRUMENT_MAX_DURATION": "0.5", "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "1"}
    with served(*UVICORN, "fastapi_app:app", **limits) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/events")
        stream = connection.getresponse()
        ticks = []
        for _ in range(50):  # 20 ms each
            _, waited_us, at_ns = stream.readline().split()
            ticks.append((float(waited_us), int(at_ns)))
            assert stream.readline() == b"\n"

        # When others come meanwhile, one after the other, and the client goes away
        others = ask_one_after_the_other(port, "/background/a", grpc_sink, wait_until)
        stream.close()
        connection.close()
        wait_until(lambda: len(profiled(grpc_sink)) == len(others) + 1)

    # Then each has its profile, and the stream has one of its beginning
    assert_whole(others)
    for other in others:
        assert_exact(other, time_in)
    (stream_span,) = spans_besides(others, grpc_sink)
    assert attributes_of(stream_span)["pyinstrument.truncated"] is True
    duration = attributes_of(stream_span)["pyinstrument.duration"]
    assert 0.5 <= duration <= wall_us(stream_span) / 1e6
    # And no more ticks than there is time for up to the limit; loops also round down to milliseconds
    end_ns = stream_span.start_time_unix_nano + duration * 1e9
    waited_us = [waited_us for waited_us, at_ns in ticks if at_ns <= end_ns]
    assert len(waited_us) <= 0.5 / 0.019 + 2
    # And what it has waited until then
    assert 0.8 * max(waited_us, default=0.0) <= time_in(tree_of(stream_span), "[await]") <= duration * 1e6


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


def test_the_async_orm_of_django_stands_below_the_view_that_awaits_it(
    served, grpc_sink, time_in, wait_until
) -> None:
    # When async views are asked that query, two of them once more while they stream
    with served(*DJANGO_SERVERS["asgi"]) as port:
        for _ in range(3):
            ask_at_once(port, ["/orm/a", "/orm/b", "/stream/a", "/stream/b"])
        wait_until(lambda: len(profiled(grpc_sink)) >= 12)

    # Then each has one profile, with the queries where they are awaited
    assert len(profiled(grpc_sink)) == 12
    assert_whole(profiled(grpc_sink))
    for span in profiled(grpc_sink):
        tree = assert_exact(span, time_in)
        if path_of_request(span).startswith("/orm"):
            assert queries_below(tree, "orm_view") == {("acount", "count"), ("aget", "get")}
            # 30 ms each.
            assert 59_000 < time_in(tree, "query") <= time_in(tree, "orm_view") <= tree.duration_us


SPANS_AROUND_DJANGO = {"ours": "django_wrapped:ours", "OpenTelemetry's": "django_wrapped:theirs"}


@pytest.mark.parametrize("around", SPANS_AROUND_DJANGO)
def test_what_django_streams_belongs_to_a_span_around_it(
    around: str, served, grpc_sink, time_in, wait_until
) -> None:
    # Given a span around the application: that of Django's instrumentation ends before a body is streamed
    with served(*UVICORN, SPANS_AROUND_DJANGO[around]) as port:
        for _ in range(3):
            ask_at_once(port, ["/orm/a", "/orm/b", "/stream/a", "/stream/b"])
        wait_until(lambda: len(profiled(grpc_sink)) >= 12)

    # Then the generator and what it queries are in the one profile of the request
    assert len(profiled(grpc_sink)) == 12
    assert_whole(profiled(grpc_sink))
    for span in profiled(grpc_sink):
        tree = assert_exact(span, time_in)
        name = path_of_request(span)[-1]
        assert time_in(tree, "query") > 59_000
        if path_of_request(span).startswith("/stream"):
            assert {path[-2] for path in paths_to(tree, f"work_of_{name}")} == {"chunks", "stream_view"}
            assert queries_below(tree, "chunks") == {("aget", "get")}
            assert time_in(tree, "query") <= time_in(tree, "chunks") <= tree.duration_us
        else:
            assert queries_below(tree, "orm_view") == {("acount", "count"), ("aget", "get")}


@pytest.mark.parametrize(
    ("application", "body_is_seen"), [("django_app:wsgi", False), ("django_wrapped:ours_on_threads", True)]
)
def test_what_django_streams_from_threads_belongs_to_a_span_around_it_alone(
    application: str, body_is_seen: bool, served, grpc_sink, time_in, wait_until
) -> None:
    # When bodies are made while they are sent, with and without a span around the application
    with served(*DJANGO_SERVERS["wsgi"][:-1], application) as port:
        for _ in range(3):
            ask_at_once(port, ["/chunks/a", "/chunks/b"])
        wait_until(lambda: len(profiled(grpc_sink)) >= 6)

    # Then the one profile of each request has what the view did, and with that span the body too
    assert len(profiled(grpc_sink)) == 6
    assert_whole(profiled(grpc_sink))
    for span in profiled(grpc_sink):
        tree = assert_exact(span, time_in)
        if body_is_seen:
            assert calls_above(tree, "query", 1) == {("chunks",)}
            assert 59_000 < time_in(tree, "query") <= time_in(tree, "chunks") <= tree.duration_us
        else:
            assert not {"chunks", "query"} & functions(tree)


def queries_below(tree: CallTree, function: str) -> set[tuple[str, ...]]:
    """The two calls below `function` that led to each query, without their classes."""
    return {
        tuple(call.rpartition(".")[2] for call in path[path.index(function) + 1 :][:2])
        for path in paths_to(tree, "query")
    }


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
