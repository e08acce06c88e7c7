"""Fixtures for the part that runs inside the application: a traced provider, and sinks that speak OTLP."""

from __future__ import annotations

import base64
import gzip
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind

from otel_pyinstrument import private_names, self_test
from otel_pyinstrument.call_tree import CallTree, decode
from otel_pyinstrument.settings import Settings
from otel_pyinstrument.span_processor import ProfilingSpanProcessor
from tests.unhurried import take_all_time

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


take_all_time()  # tests/conftest.py is not loaded on other Pythons

ALONE = {
    "test_asgi",
    "test_async_requests",
    "test_async_servers",
    "test_cost_estimate",
    "test_hops",
    "test_in_code",
    "test_loop_steps",
    "test_other_threads",
    "test_random_programs",
    "test_segment",
}
"""Files whose tests compare durations with each other: what the machine takes from one of two would count.

All others hold beside anything, unless a test has the marker itself. They ask for CPU time, for an order, or
for a duration between two moments that lie around it.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in ALONE:
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session", autouse=True)
def pyinstrument_is_loaded() -> None:
    """As by the self-test when profiling is switched on, not by the first request."""
    private_names.silence_overhead_warning()
    self_test.check_sampler()


@pytest.fixture(autouse=True)
def the_budget_is_not_what_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that ask for rate 1 want every profile; those of the budget say what it is."""
    monkeypatch.setenv("OTEL_PYINSTRUMENT_CPU_BUDGET", "1")


@pytest.fixture(autouse=True)
def no_profile_hook_survives() -> Iterator[None]:
    assert sys.getprofile() is None, "an earlier test left a profile function behind"
    yield
    left = sys.getprofile()
    sys.setprofile(None)
    assert left is None


@pytest.fixture(autouse=True)
def nothing_stays_instrumented() -> Iterator[None]:
    yield
    from otel_pyinstrument import PyinstrumentInstrumentor

    if PyinstrumentInstrumentor().is_instrumented_by_opentelemetry:
        PyinstrumentInstrumentor().uninstrument()


class Traced:
    """A provider whose server spans are all profiled, and what it exported."""

    def __init__(self, *, reraise: bool = True, **settings: object) -> None:
        self.provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.get_empty(), shutdown_on_exit=False
        )
        self.tracer = self.provider.get_tracer("test")
        self.exporter = InMemorySpanExporter()
        self.processor = ProfilingSpanProcessor(
            Settings(**{"rate": 1.0, "cpu_budget": 1.0, "interval": 5.0, **settings}),  # type: ignore[arg-type]
            payload_as_bytes=lambda: False,
            reraise=reraise,
        )
        self.provider.add_span_processor(self.processor)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def request(self, work: Callable[[], object], name: str = "GET /") -> ReadableSpan:
        """Run `work` inside a server span and return the exported span."""
        with self.tracer.start_as_current_span(name, kind=SpanKind.SERVER):
            work()
        return self.exporter.get_finished_spans()[-1]


@pytest.fixture
def traced() -> Iterator[Traced]:
    made = Traced()
    yield made
    made.provider.shutdown()


@pytest.fixture
def make_traced() -> Iterator[Callable[..., Traced]]:
    made: list[Traced] = []

    def make(**settings: object) -> Traced:
        made.append(Traced(**settings))
        return made[-1]

    yield make
    for each in made:
        each.provider.shutdown()


@pytest.fixture
def profile_of() -> Callable[[ReadableSpan], object]:
    """The profile event of a span; None without one."""

    def find(span: ReadableSpan) -> object:
        found = [event for event in span.events if event.name == "pyinstrument.profile"]
        assert len(found) <= 1
        return found[0] if found else None

    return find


@pytest.fixture
def tree_of() -> Callable[[ReadableSpan], CallTree]:
    """The decoded call tree of a span's profile, checked."""

    def read(span: ReadableSpan) -> CallTree:
        (event,) = [event for event in span.events if event.name == "pyinstrument.profile"]
        assert "pyinstrument.error" not in event.attributes
        payload = event.attributes["pyinstrument.payload"]
        tree = decode(payload if isinstance(payload, bytes) else base64.b64decode(payload))
        tree.self_check()
        return tree

    return read


@pytest.fixture
def time_in() -> Callable[[CallTree, str], int]:
    """Microseconds below (and in) the outermost calls of a function in a tree."""

    def total(tree: CallTree, function: str) -> int:
        totals = tree.total_us()
        found = 0
        skip_until = 0
        for node in range(tree.node_count):
            if node >= skip_until and tree.frames[tree.frame[node]].function == function:
                found += totals[node]
                skip_until = tree.subtree_end(node)
        return found

    return total


@pytest.fixture
def burn() -> Callable[[float], None]:
    """Use the CPU of this thread for some seconds, by its own clock, in calls that the hook can see."""

    def run(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            sum(range(200))

    return run


class Worked:
    """Works for some seconds of CPU time, and keeps the time on the wall that this took in all, by name."""

    def __init__(self, burn: Callable[[float], None]) -> None:
        self._burn = burn
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, cpu_seconds: float) -> None:
        start = time.perf_counter()
        self._burn(cpu_seconds)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@pytest.fixture
def worked(burn: Callable[[float], None]) -> Worked:
    return Worked(burn)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(condition: Callable[[], object], limit_seconds: float = 60) -> None:
        end = time.monotonic() + limit_seconds
        while not condition():
            assert time.monotonic() < end, "the condition did not come true in time"
            time.sleep(0.01)

    return wait


@pytest.fixture
def our_entry_points() -> Callable[[Path], None]:
    """Puts our entry points into a folder of the search path, as an installed package would have them."""

    def install(folder: Path) -> None:
        pyproject = Path(__file__).parents[2] / "pyproject.toml"
        groups = tomllib.loads(pyproject.read_text("utf-8"))["project"]["entry-points"]
        installed = folder / "otel_pyinstrument-0.dist-info"
        installed.mkdir()
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: otel-pyinstrument\nVersion: 0\n")
        (installed / "entry_points.txt").write_text(
            "\n".join(
                f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in entries.items())
                for group, entries in groups.items()
            )
        )

    return install


class Sink:
    """An OTLP endpoint that keeps every request, and may answer the first ones with a temporary error."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.refuse_next = 0
        self._lock = threading.Lock()

    def take(self, request: object) -> bool:
        with self._lock:
            self.requests.append(request)
            refused = self.refuse_next > 0
            self.refuse_next -= refused
            return not refused

    def spans(self) -> list[object]:
        with self._lock:
            requests = list(self.requests)
        return [
            span
            for request in requests
            for resource_spans in request.resource_spans
            for scope_spans in resource_spans.scope_spans
            for span in scope_spans.spans
        ]


@pytest.fixture
def grpc_sink() -> Iterator[Sink]:
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    sink = Sink()

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802 - the name in the protocol
            if not sink.take(request):
                context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)
    sink.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield sink
    server.stop(0).wait()


@pytest.fixture
def http_sink() -> Iterator[Sink]:
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    sink = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            accepted = sink.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if accepted else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    sink.endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
    yield sink
    server.shutdown()
    server.server_close()
    thread.join()
