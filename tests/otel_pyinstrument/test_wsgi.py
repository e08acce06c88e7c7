"""The wrapper for WSGI applications that no instrumentation knows, under a real server."""

from __future__ import annotations

import io
import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from otel_pyinstrument import WSGIMiddleware, installed


class Quiet(WSGIRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def application(traced, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(installed, "provider", traced.provider)
    return traced


@pytest.fixture
def serve() -> Iterator[Callable[[object], str]]:
    """Run a WSGI application under a real server; returns its address."""
    servers = []

    def start(app: object) -> str:
        server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def get(address: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def finished(traced, wait_until, count: int = 1) -> list:
    wait_until(lambda: len(traced.exporter.get_finished_spans()) >= count)
    return list(traced.exporter.get_finished_spans())


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def test_one_line_makes_a_profiled_server_span(application, serve, profile_of, wait_until) -> None:
    # Given a wrapped application under a server
    address = serve(WSGIMiddleware(validator(hello)))

    # When it is asked, by somebody who is traced
    answer = get(
        f"{address}/a%20b?page=2&access_token=s3cret",
        **{"User-Agent": "test/1", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
    )

    # Then there is a span by the stable conventions, in the caller's trace, with a profile
    assert answer == (200, b"hello")
    (span,) = finished(application, wait_until)
    assert (span.name, span.kind) == ("GET", SpanKind.SERVER)
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == ("a" * 32, "b" * 16)
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": "/a b",
        "url.query": "page=2&access_token=***",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": int(address.rpartition(":")[2]),
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "test/1",
    }
    assert profile_of(span).attributes["pyinstrument.reason"] == "rate"


def test_names_that_the_owner_lists_are_masked(application, serve, wait_until, monkeypatch) -> None:
    monkeypatch.setattr(installed, "mask", ("badge",))

    get(f"{serve(WSGIMiddleware(hello))}/?Badge-No=5&page=1")

    assert finished(application, wait_until)[0].attributes["url.query"] == "Badge-No=***&page=1"


def test_the_body_belongs_to_the_request(application, serve, wait_until, tree_of, time_in, burn) -> None:
    # Given a body that is made while it is sent
    def part(n: int) -> bytes:
        burn(0.03)
        return b"x" * n

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        for n in range(1, 4):
            yield part(n)

    assert get(serve(WSGIMiddleware(app))) == (200, b"x" * 6)

    (span,) = finished(application, wait_until)
    assert span.attributes["http.response.status_code"] == 200
    assert time_in(tree_of(span), "part") > 75_000


def test_an_application_that_fails_marks_its_span(application, serve, wait_until) -> None:
    def app(environ, start_response):
        raise KeyError("missing")

    def server_error(environ, start_response):
        start_response("503 Service Unavailable", [])
        return [b""]

    wrapped = WSGIMiddleware(app)
    seen = []

    def shielded(environ, start_response):
        try:
            return wrapped(environ, start_response)
        except KeyError as error:
            seen.append(error)
            return server_error(environ, start_response)

    get(serve(shielded))
    get(serve(WSGIMiddleware(server_error)))

    failed, unavailable = finished(application, wait_until, 2)
    assert seen[0].args == ("missing",)
    assert (failed.status.status_code, failed.attributes["error.type"]) == (StatusCode.ERROR, "KeyError")
    assert any(event.name == "exception" for event in failed.events)
    assert (unavailable.status.status_code, unavailable.attributes["error.type"]) == (StatusCode.ERROR, "503")


def call(app, **environ: object) -> tuple[list, object]:
    """Call as a server would, without one."""
    started: list = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"} | environ
    body = WSGIMiddleware(app)(environ, lambda status, headers, exc_info=None: started.append(status))
    return started, body


def test_bodies_of_known_length_and_files_stay_what_they_are(application) -> None:
    # Given what servers look at the type of
    listed = [b"a", b"b"]
    file = FileWrapper(io.BytesIO(b"a"))

    assert call(lambda e, s: s("200 OK", []) or listed)[1] is listed
    assert call(lambda e, s: s("200 OK", []) or file, **{"wsgi.file_wrapper": FileWrapper})[1] is file
    assert len(application.exporter.get_finished_spans()) == 2


def test_a_client_that_goes_away_ends_the_span_once_and_closes_the_body(application) -> None:
    closed = []

    class Body:
        def __iter__(self):
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append(True)

    _, body = call(lambda e, s: s("200 OK", []) or Body())
    assert next(body) == b"a"
    assert not application.exporter.get_finished_spans()
    body.close()
    body.close()

    assert closed == [True, True]
    assert len(application.exporter.get_finished_spans()) == 1


def test_a_body_that_fails_marks_the_span(application) -> None:
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        raise ValueError("in the middle")

    _, body = call(app)
    assert next(body) == b"a"
    with pytest.raises(ValueError, match="in the middle"):
        next(body)
    body.close()

    (span,) = application.exporter.get_finished_spans()
    assert span.attributes["error.type"] == "ValueError"


def test_spans_of_the_body_are_below_the_request(application) -> None:
    def app(environ, start_response):
        start_response("200 OK", [])
        with application.tracer.start_as_current_span("inner"):
            pass
        yield b"a"

    assert list(call(app)[1]) == [b"a"]

    inner, root = application.exporter.get_finished_spans()
    assert inner.parent.span_id == root.context.span_id


def test_a_request_that_has_a_span_is_left_alone(application) -> None:
    with application.tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        call(hello)

    assert [span.name for span in application.exporter.get_finished_spans()] == ["GET /"]


@pytest.mark.parametrize("method", ["PROPFIND", "", "x" * 9_000, "get"])
def test_methods_that_are_no_names_are_kept_out_of_the_name(method: str, application) -> None:
    call(hello, REQUEST_METHOD=method)

    (span,) = application.exporter.get_finished_spans()
    assert (span.name, span.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert span.attributes["http.request.method_original"] == method[:2_048]


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_HOST": "[::1", "SERVER_PORT": "x"},
        {"HTTP_HOST": "host:port", "QUERY_STRING": "a=%ff&&=;"},
        {"HTTP_TRACEPARENT": "00-zz", "REMOTE_ADDR": None, "PATH_INFO": "/\udc80"},
    ],
)
def test_hostile_requests_are_served(environ: dict, application) -> None:
    started, body = call(hello, **environ)

    assert (started, body) == (["200 OK"], [b"hello"])


def test_a_failure_of_the_tracer_leaves_the_request_alone(application, monkeypatch, caplog) -> None:
    monkeypatch.setattr(installed, "tracer", lambda: 1 / 0)

    assert call(hello)[1] == [b"hello"]
    assert "not traced" in caplog.text


def test_the_facts_of_the_request_are_those_of_the_span(application, profile_of) -> None:
    call(hello, QUERY_STRING="token=s3cret")

    (span,) = application.exporter.get_finished_spans()
    facts = json.loads(profile_of(span).attributes["pyinstrument.facts"])
    assert facts["request"] == {"method": "GET", "parameters": [["token", "***"]]}
    assert facts["response"] == {"status_code": 200}


def test_start_response_may_be_called_with_names(application) -> None:
    # Given an application that fails after its head and, as PEP 3333 asks, says so
    given = []

    def app(environ, start_response):
        try:
            raise ValueError("in the middle")
        except ValueError:
            start_response("500 Internal Server Error", headers=[], exc_info=sys.exc_info())
        return [b""]

    def server_start(status, headers, exc_info=None):
        given.append((status, headers, exc_info[0]))

    # When a server calls it
    assert WSGIMiddleware(app)({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, server_start) == [b""]

    # Then the server has everything, and the span the status
    assert given == [("500 Internal Server Error", [], ValueError)]
    (span,) = application.exporter.get_finished_spans()
    assert span.attributes["http.response.status_code"] == 500


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("of the exception's own")


def test_an_exception_that_cannot_be_printed_arrives_and_marks_its_span(application, profile_of) -> None:
    def app(environ, start_response):
        raise Unprintable

    with pytest.raises(Unprintable):
        call(app)

    (span,) = application.exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "Unprintable")
    assert span.attributes["error.type"] == "Unprintable"
    assert profile_of(span) is not None
