"""The wrapper for ASGI applications that no instrumentation knows, under a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from otel_pyinstrument import ASGIMiddleware, installed


@pytest.fixture
def application(traced, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(installed, "provider", traced.provider)
    return traced


@pytest.fixture
def serve(wait_until) -> Iterator[Callable[[object], str]]:
    """Run an ASGI application under uvicorn; returns its address."""
    running = []

    def start(app: object) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, loop="asyncio"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread, listener))
        wait_until(lambda: server.started)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread, listener in running:
        server.should_exit = True
        thread.join(20)
        listener.close()


def get(address: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as response:
        return response.read()


async def order(request):
    return PlainTextResponse(request.path_params["number"])


async def stream(request):
    async def parts():
        for _ in range(3):
            await asyncio.sleep(0.01)
            yield b"x"

    return StreamingResponse(parts())


def test_one_line_makes_a_server_span_with_the_route(application, serve, wait_until) -> None:
    # Given a wrapped application of a framework that leaves its route in the scope
    address = serve(ASGIMiddleware(Starlette(routes=[Route("/orders/{number}", order)])))

    assert get(f"{address}/orders/17?token=s3cret", traceparent=f"00-{'a' * 32}-{'b' * 16}-01") == b"17"

    wait_until(application.exporter.get_finished_spans)
    (span,) = application.exporter.get_finished_spans()
    assert span.kind is SpanKind.SERVER
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == ("a" * 32, "b" * 16)
    attributes = dict(span.attributes)
    assert attributes.pop("user_agent.original").startswith("Python-urllib")
    assert span.name == "GET /orders/{number}"
    assert attributes == {
        "http.request.method": "GET",
        "http.route": "/orders/{number}",
        "http.response.status_code": 200,
        "url.path": "/orders/17",
        "url.query": "token=***",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": int(address.rpartition(":")[2]),
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
    }


def test_the_span_lasts_until_the_last_part(application, serve, wait_until) -> None:
    address = serve(ASGIMiddleware(Starlette(routes=[Route("/", stream)])))

    assert get(address) == b"xxx"

    wait_until(application.exporter.get_finished_spans)
    (span,) = application.exporter.get_finished_spans()
    assert span.end_time - span.start_time >= 30_000_000


def test_each_profile_has_the_work_and_the_waits_of_its_own_request(
    application, serve, wait_until, tree_of, time_in, worked
) -> None:
    # Given an application whose requests take turns
    def work_of_a() -> None:
        worked("a", 0.023)

    def work_of_b() -> None:
        worked("b", 0.013)

    work = {"a": work_of_a, "b": work_of_b}
    arrived: set[str] = set()
    both_have_arrived = asyncio.Event()

    async def endpoint(request):
        name = request.path_params["name"]
        arrived.add(name)
        if arrived == set(work):
            both_have_arrived.set()
        await both_have_arrived.wait()
        # Many turns, of lengths that are no multiple of the interval or of the tick of a coarse clock.
        for _ in range(12):
            work[name]()
            await asyncio.sleep(0.005)
        return PlainTextResponse("done")

    routes = [Route("/first/{number}", order), Route("/{name}", endpoint)]
    address = serve(ASGIMiddleware(Starlette(routes=routes)))
    get(f"{address}/first/1")  # imports, and fills caches
    wait_until(application.exporter.get_finished_spans)
    application.exporter.clear()

    # When two are served at once
    with ThreadPoolExecutor(2) as clients:
        assert list(clients.map(get, [f"{address}/a", f"{address}/b"])) == [b"done"] * 2

    # Then each has its own work in its tree, and the rest is waiting
    wait_until(lambda: len(application.exporter.get_finished_spans()) == 2)
    for span in application.exporter.get_finished_spans():
        name = span.attributes["url.path"][1:]
        tree = tree_of(span)
        own_us, waited_us = time_in(tree, f"work_of_{name}"), time_in(tree, "[await]")
        assert f"work_of_{'ba'['ab'.index(name)]}" not in {frame.function for frame in tree.frames}
        assert own_us / 1e6 == pytest.approx(worked.seconds[name], rel=0.25)
        assert own_us + waited_us == pytest.approx((span.end_time - span.start_time) / 1000, rel=0.1)
        assert time_in(tree, "endpoint") == pytest.approx(own_us + waited_us, rel=0.1)


def test_the_body_belongs_to_the_request(application, serve, wait_until, tree_of, time_in, worked) -> None:
    # Given a body that is made while it is sent
    def part(number: int) -> bytes:
        worked("body", 0.03)
        return b"x" * number

    async def parts():
        for number in range(1, 4):
            yield part(number)
            await asyncio.sleep(0.001)

    async def endpoint(request):
        return StreamingResponse(parts())

    assert get(serve(ASGIMiddleware(Starlette(routes=[Route("/", endpoint)])))) == b"x" * 6

    wait_until(application.exporter.get_finished_spans)
    (span,) = application.exporter.get_finished_spans()
    assert time_in(tree_of(span), "part") / 1e6 == pytest.approx(worked.seconds["body"], rel=0.25)


def run(app, **scope: object) -> list:
    """Call as a server would, without one."""
    sent: list = []

    async def send(message) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []} | scope
    asyncio.run(ASGIMiddleware(app)(scope, receive, send))
    return sent


async def hello(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def test_the_messages_of_the_application_pass_unchanged(application) -> None:
    sent = run(hello)

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert application.exporter.get_finished_spans()[0].attributes["http.response.status_code"] == 200


def test_the_route_of_the_framework_names_the_span(application) -> None:
    async def app(scope, receive, send) -> None:
        scope["route"] = Route("/orders/{number}", order)
        await hello(scope, receive, send)

    run(app, path="/orders/17")
    run(app, path="/shop/orders/17")

    span, mounted = application.exporter.get_finished_spans()
    assert (mounted.name, "http.route" in mounted.attributes) == ("GET", False)
    assert (span.name, span.attributes["http.route"]) == ("GET /orders/{number}", "/orders/{number}")


def test_an_application_that_fails_marks_its_span_and_the_error_passes(application) -> None:
    async def app(scope, receive, send) -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        run(app)

    (span,) = application.exporter.get_finished_spans()
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "KeyError")


def test_a_cancelled_request_ends_its_span_without_an_error(application) -> None:
    async def app(scope, receive, send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(app)

    assert application.exporter.get_finished_spans()[0].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_what_is_no_http_request_passes_unseen(kind: str, application) -> None:
    run(hello, type=kind)

    assert application.exporter.get_finished_spans() == ()


def test_a_request_that_has_a_span_is_left_alone(application) -> None:
    with application.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        run(hello)

    assert [span.name for span in application.exporter.get_finished_spans()] == ["GET /"]


@pytest.mark.parametrize(
    "scope",
    [
        {"headers": [(b"host", b"\xff:x"), (b"\xff", b"\x00")], "query_string": b"\xff=%"},
        {"server": None, "client": None, "method": "\x00", "path": "\udc80"},
        {"headers": 5},
    ],
)
def test_hostile_requests_are_served(scope: dict, application) -> None:
    assert len(run(hello, **scope)) == 2
