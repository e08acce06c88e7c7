"""An untouched Flask application under `opentelemetry-instrument`, on real servers, in own processes."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median

import pytest

from otel_pyinstrument.call_tree import CallTree, decode
from tests.free_ports import find_free_ports

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

APP = """
import time
from flask import Flask, Response, jsonify, request, stream_with_context

app = Flask(__name__)

def cpu_heavy(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))

def other_work(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))

def slow_backend(seconds):
    time.sleep(seconds)

@app.get("/slow")
def slow():
    cpu_heavy(0.06)
    slow_backend(0.03)
    other_work(0.01)
    return "done"

def step(number):
    return number + 1

@app.get("/steps")
def steps():
    return str(sum(map(step, range(200_000))))

@app.get("/thread/<name>")
def by_name(name):
    globals()[f"work_for_{name}"]()
    return name

def work_for_a():
    cpu_heavy(0.03)

def work_for_b():
    cpu_heavy(0.03)

@app.post("/echo")
def echo():
    return jsonify(method=request.method, body=request.get_data(as_text=True), headers=sorted(
        name for name, _ in request.headers))

def parts():
    for number in range(100):
        if number % 20 == 0:
            other_work(0.008)
        yield str(number)

@app.get("/stream")
def stream():
    cpu_heavy(0.04)
    return Response(parts(), mimetype="text/plain")

@app.get("/stream/with-context")
def stream_in_context():
    cpu_heavy(0.04)
    return Response(stream_with_context(parts()), mimetype="text/plain")

@app.get("/fails")
def fails():
    raise RuntimeError("of the application")
"""

WRAPPED = """
from app import app
from otel_pyinstrument import WSGIMiddleware

app.wsgi_app = WSGIMiddleware(app.wsgi_app)
"""


@pytest.fixture
def site(tmp_path: Path, our_entry_points: Callable[[Path], None]) -> Path:
    """A folder with the application, and our entry points as an installed package would have them."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "wrapped.py").write_text(WRAPPED)
    our_entry_points(tmp_path)
    return tmp_path


def environment(site: Path, **variables: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)]),
        "HOME": str(site),
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_PYINSTRUMENT_RATE": "1",
        "OTEL_PYINSTRUMENT_CPU_BUDGET": "1",
        "OTEL_PYINSTRUMENT_INTERVAL": "4",
        **variables,
    }


def get(port: int, path: str, *, method: str = "GET", body: str | None = None) -> tuple[int, list, bytes]:
    """Status, headers without the date, and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body=body)
    response = connection.getresponse()
    headers = [(name, value) for name, value in response.getheaders() if name != "Date"]
    content = response.read()
    connection.close()
    return response.status, headers, content


@pytest.fixture
def served(site: Path, wait_until) -> Callable[..., AbstractContextManager[int]]:
    """Runs gunicorn with some options; gives the port, and afterwards the log in `log`."""

    @contextmanager
    def run(
        *options: str, application: str = "app:app", instrumented: bool = True, **variables: str
    ) -> Iterator[int]:
        (port,) = find_free_ports(1)
        bind = f"127.0.0.1:{port}"
        command = ["gunicorn", "--bind", bind, "--graceful-timeout", "10", *options, application]
        if instrumented:
            command.insert(0, "opentelemetry-instrument")
        log = site / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=site,
                env=environment(site, **variables),
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
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        text = log.read_text()
        expected = text.count("Error: of the application") + text.count("Error: broken on purpose")
        assert text.count("Traceback") == expected, text

    return run


def request_spans(sink) -> list:
    return [span for span in sink.spans() if span.kind == 2]


def attributes_of(span) -> dict[str, object]:
    (event,) = [event for event in span.events if event.name == "pyinstrument.profile"]
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in event.attributes}


def tree_of(span) -> CallTree:
    tree = decode(attributes_of(span)["pyinstrument.payload"])
    tree.self_check()
    return tree


def functions(tree: CallTree) -> set[str]:
    return {frame.function for frame in tree.frames}


def assert_as_long_as_spans(spans: list) -> None:
    """In the middle: a thread may lose its turn between the end of a span and that of its tree."""
    lengths_us = [(span.end_time_unix_nano - span.start_time_unix_nano) / 1000 for span in spans]
    ratios = [tree_of(span).duration_us / length for span, length in zip(spans, lengths_us, strict=True)]
    assert median(ratios) <= 1.1


@pytest.mark.alone
def test_a_tree_begins_at_the_application_and_tells_own_code_from_libraries(
    served, grpc_sink, wait_until
) -> None:
    # When an application without a line of ours answers
    with served(
        "--threads", "4", OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint, OTEL_PYINSTRUMENT_MAX_CONCURRENT="4"
    ) as port:
        with ThreadPoolExecutor(4) as clients:
            answers = {body for _, _, body in clients.map(lambda _: get(port, "/slow"), range(8))}
        wait_until(lambda: len(request_spans(grpc_sink)) == 8)

    # Then no call of the server is in the trees, and the wall time is that of the request
    assert answers == {b"done"}
    for span in request_spans(grpc_sink):
        tree = tree_of(span)
        (outermost,) = [tree.frames[tree.frame[child]] for child in tree.children(0)]
        assert (outermost.function.split(".")[-1], outermost.file) == ("wsgi_app", "flask/app.py")
        assert {"slow", "slow_backend"} <= functions(tree)
        (frame,) = [frame for frame in tree.frames if frame.function == "slow"]
        assert (frame.file, frame.own_code) == ("app.py", True)
        assert attributes_of(span)["pyinstrument.encoding"] == "zlib+json"
    assert_as_long_as_spans(request_spans(grpc_sink))


@pytest.mark.alone
def test_the_planted_function_has_its_share(served, grpc_sink, time_in, wait_until) -> None:
    # When one request after the other is profiled
    with served("--threads", "2", OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint) as port:
        for _ in range(10):
            get(port, "/slow")
        wait_until(lambda: len(request_spans(grpc_sink)) == 10)

    # Then CPU time is where it was planted: 60 ms to 10 ms by the clock of the thread
    trees = [tree_of(span) for span in request_spans(grpc_sink)]
    heavy = sum(time_in(tree, "cpu_heavy") for tree in trees)
    other = sum(time_in(tree, "other_work") for tree in trees)
    assert heavy / (heavy + other) == pytest.approx(6 / 7, abs=0.10)


@pytest.mark.alone
def test_concurrent_requests_on_threads_do_not_mix(served, grpc_sink, wait_until) -> None:
    # When two endpoints with work of their own run side by side
    with served(
        "--threads", "8", OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint, OTEL_PYINSTRUMENT_MAX_CONCURRENT="8"
    ) as port:
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(lambda number: get(port, f"/thread/{'ab'[number % 2]}"), range(40)))
        wait_until(lambda: len(request_spans(grpc_sink)) == 40)

    # Then no tree shows the work of the other
    seen = {"a": 0, "b": 0}
    for span in request_spans(grpc_sink):
        names = functions(tree_of(span))
        (path,) = [e.value.string_value for e in span.attributes if e.key in {"http.target", "url.path"}]
        name = path[-1]
        assert f"work_for_{'ba'['ab'.index(name)]}" not in names
        seen[name] += f"work_for_{name}" in names
    assert seen["a"] > 10
    assert seen["b"] > 10


STREAMED = ["/stream", "/stream/with-context"]
WHOLE = "".join(map(str, range(100))).encode()


@pytest.mark.alone
def test_a_streamed_body_is_no_part_of_the_profile(served, grpc_sink, wait_until) -> None:
    # When bodies are made while they are sent, each after a view that works as long
    with served("--threads", "2", OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint) as port:
        bodies = [get(port, path)[2] for path in STREAMED * 3]
        wait_until(lambda: len(request_spans(grpc_sink)) == 6)

    # Then Flask's instrumentation has ended its span before, and the profile shows the view alone
    assert bodies == [WHOLE] * 6
    for span in request_spans(grpc_sink):
        tree = tree_of(span)
        assert "cpu_heavy" in functions(tree)
        assert not {"parts", "other_work"} & functions(tree)
    assert_as_long_as_spans(request_spans(grpc_sink))


@pytest.mark.alone
def test_a_streamed_body_belongs_to_our_span_around_the_application(
    served, grpc_sink, time_in, wait_until
) -> None:
    # Given an application with our wrapper around it
    with served(
        "--threads", "2", application="wrapped:app", OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint
    ) as port:
        bodies = [get(port, path)[2] for path in STREAMED * 3]
        wait_until(lambda: len(request_spans(grpc_sink)) == 6)

    # Then each request has one profile, with the body that takes as much CPU time as the view
    assert bodies == [WHOLE] * 6
    profiles = [event for span in grpc_sink.spans() for event in span.events]
    assert len(profiles) == 6
    trees = [tree_of(span) for span in request_spans(grpc_sink)]
    view = sum(time_in(tree, "cpu_heavy") for tree in trees)
    body = sum(time_in(tree, "parts") for tree in trees)
    assert body / (view + body) == pytest.approx(1 / 2, abs=0.10)
    for tree in trees:
        assert time_in(tree, "cpu_heavy") + time_in(tree, "parts") <= tree.duration_us
    assert_as_long_as_spans(request_spans(grpc_sink))


@pytest.fixture
def metrics_sink() -> Iterator[tuple[str, list]]:
    """Address of a gRPC receiver of metrics, and what it got."""
    import grpc
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc

    received: list = []

    class Service(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request, context):  # noqa: N802 - the name in the protocol
            received.append(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Service(), server)
    address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address, received
    server.stop(0).wait()


def decisions(received: list) -> Counter[str]:
    """How many requests met which decision of the gate. Counts only grow; one process alone has any."""
    most: Counter[str] = Counter()
    for metric in (
        metric
        for request in received
        for resource_metrics in request.resource_metrics
        for scope_metrics in resource_metrics.scope_metrics
        for metric in scope_metrics.metrics
    ):
        if metric.name == "otel_pyinstrument.gate.requests":
            for point in metric.sum.data_points:
                (decision,) = point.attributes
                most |= Counter({decision.value.string_value: point.as_int})
    return most


def test_requests_that_the_budget_refuses_have_no_profile_and_are_counted(
    served, grpc_sink, metrics_sink
) -> None:
    # Given an application that asks for every profile, and lets them cost a thousandth of its CPU time
    address, metrics = metrics_sink
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": grpc_sink.endpoint,
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": address,
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_PYINSTRUMENT_CPU_BUDGET": "0.001",
        "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "100",
    }

    # When it is under load
    with served("--threads", "4", **settings) as port, ThreadPoolExecutor(4) as clients:
        answers = Counter(status for status, _, _ in clients.map(lambda _: get(port, "/steps"), range(80)))

    # Then those that the budget refused have no profile, and the metric counts just these
    assert answers == {200: 80}
    profiles = [
        sum(event.name == "pyinstrument.profile" for event in span.events)
        for span in request_spans(grpc_sink)
    ]
    assert len(profiles) == 80
    assert decisions(metrics) == {"profiled": profiles.count(1), "budget": profiles.count(0)}
    # A profile costs more than the budget holds: only those that are under way at once are ahead of it.
    assert 1 <= profiles.count(1) <= 8


REQUESTS = [
    ("/slow", "GET", None),
    ("/echo", "POST", "a body"),
    ("/stream", "GET", None),
    ("/fails", "GET", None),
    ("/missing", "GET", None),
    ("/slow", "HEAD", None),
]


def test_profiling_changes_no_byte_of_a_response(served, http_sink, site: Path, wait_until) -> None:
    # Given the answers of the application alone
    def answers(**options: object) -> list:
        with served("--threads", "2", **options) as port:
            return [get(port, path, method=method, body=body) for path, method, body in REQUESTS]

    plain = answers(instrumented=False)

    # When it is profiled
    export = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": http_sink.endpoint.removesuffix("/v1/traces"),
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    profiled = answers(**export)
    profiles = [
        span
        for span in request_spans(http_sink)
        if any(e.name == "pyinstrument.profile" for e in span.events)
    ]

    # Then every answer is the same
    assert [status for status, _, _ in plain] == [200, 200, 200, 500, 404, 200]
    assert profiled == plain
    assert len(profiles) == len(REQUESTS)


@pytest.mark.parametrize(
    ("owner", "method", "line"),
    [
        (
            "span_processor.ProfilingSpanProcessor",
            "_start",
            "Profiling is off in this process: on_start failed",
        ),
        (
            "span_processor.ProfilingSpanProcessor",
            "_end",
            "Profiling is off in this process: on_ending failed",
        ),
        ("segment.Segment", "_sample", "A profile is incomplete: sampling failed"),
        ("profile_event.ProfileEvent", "_encoded", "A profile is incomplete: encoding failed"),
    ],
)
def test_a_broken_hook_changes_nothing_but_one_line_of_log(
    owner: str, method: str, line: str, served, http_sink, site: Path
) -> None:
    # Given a build of ours in which one hook raises
    module, owner_class = owner.rsplit(".", 1)
    (site / "broken.py").write_text(
        f"import otel_pyinstrument.{module} as module\n"
        "def fail(*arguments, **options):\n"
        "    raise RuntimeError('broken on purpose')\n"
        f"module.{owner_class}.{method} = fail\n"
    )
    (site / "app.py").write_text("import broken\n" + APP)
    with served("--threads", "2", instrumented=False) as port:
        plain = [get(port, path, method=verb, body=body) for path, verb, body in REQUESTS]

    # When the application serves requests
    with served(
        "--threads",
        "2",
        OTEL_EXPORTER_OTLP_ENDPOINT=http_sink.endpoint.removesuffix("/v1/traces"),
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        PYTHONWARNINGS="ignore",
    ) as port:
        broken = [get(port, path, method=verb, body=body) for path, verb, body in REQUESTS]

    # Then all answers are the same, every span arrives, and there is one line about it
    assert broken == plain
    assert len(request_spans(http_sink)) == len(REQUESTS)
    assert (site / "log").read_text().count(line) == 1


def test_the_options_of_the_command_reach_us(site: Path, grpc_sink) -> None:
    # When a script is started with our option on the command line
    script = site / "script.py"
    script.write_text("from app import app\nprint(app.test_client().get('/slow').text)\n")
    run = subprocess.run(
        [str(BIN / "opentelemetry-instrument"), "--pyinstrument_interval", "7", "python", str(script)],
        env=environment(site, OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint),
        cwd=site,
        capture_output=True,
        text=True,
        timeout=120,
    )

    # Then the profile was taken that way
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr
    (span,) = request_spans(grpc_sink)
    assert attributes_of(span)["pyinstrument.interval"] == 0.007


@pytest.mark.parametrize(
    "variables",
    [{"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "pyinstrument"}, {"OTEL_PYINSTRUMENT_ENABLED": "false"}],
)
def test_it_can_be_left_out(variables: dict[str, str], site: Path, grpc_sink) -> None:
    script = site / "script.py"
    script.write_text(
        "import sys\nfrom app import app\napp.test_client().get('/slow')\n"
        "print('pyinstrument' in sys.modules)\n"
    )

    run = subprocess.run(
        [str(BIN / "opentelemetry-instrument"), "python", str(script)],
        env=environment(site, OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint, **variables),
        cwd=site,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (run.returncode, run.stdout) == (0, "False\n"), run.stderr
    (span,) = request_spans(grpc_sink)
    assert len(span.events) == 0


def test_a_bad_setting_neither_stops_us_nor_other_instrumentations(site: Path, grpc_sink) -> None:
    script = site / "script.py"
    script.write_text("from app import app\nprint(app.test_client().get('/slow').text)\n")

    run = subprocess.run(
        [str(BIN / "opentelemetry-instrument"), "python", str(script)],
        env=environment(
            site, OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint, OTEL_PYINSTRUMENT_INTERVAL="often"
        ),
        cwd=site,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert run.stdout == "done\n"
    assert run.stderr.count("OTEL_PYINSTRUMENT_INTERVAL=often: expected a number; using the default 10") == 1
    (span,) = request_spans(grpc_sink)
    assert attributes_of(span)["pyinstrument.interval"] == 0.01


@pytest.mark.parametrize(
    ("breakage", "line"),
    [
        (
            "raise ImportError('no such package')",
            "Profiling is off: it does not work with an installed library",
        ),
        ("raise OSError('broken on purpose')", "Profiling is off: it could not be installed"),
    ],
    ids=["missing", "raises"],
)
def test_what_keeps_us_from_starting_keeps_no_other_instrumentation(
    breakage: str, line: str, site: Path, grpc_sink
) -> None:
    # Given a library that we need, and that cannot be imported
    (site / "pyinstrument.py").write_text(breakage)
    script = site / "script.py"
    script.write_text("from app import app\nprint(app.test_client().get('/slow').text)\n")

    run = subprocess.run(
        [str(BIN / "opentelemetry-instrument"), "python", str(script)],
        env=environment(site, OTEL_EXPORTER_OTLP_ENDPOINT=grpc_sink.endpoint),
        cwd=site,
        capture_output=True,
        text=True,
        timeout=120,
    )

    # Then the application is traced without us, and is told once
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr
    assert run.stderr.count(line) == 1, run.stderr
    (span,) = request_spans(grpc_sink)
    assert len(span.events) == 0


def test_options_in_a_file_and_the_command_install_us_once(site: Path) -> None:
    # Given OpenTelemetry's own configuration file, after which the command instruments once more
    (site / "otel.yaml").write_text(
        'file_format: "1.0"\npropagator: {composite: [{tracecontext: }]}\n'
        "tracer_provider:\n  processors:\n    - simple: {exporter: {console: }}\n"
        "instrumentation/development:\n  python:\n    pyinstrument: {rate: 1, cpu_budget: 1}\n"
    )
    script = site / "script.py"
    script.write_text("from app import app\nprint(app.test_client().get('/slow').text)\n")

    run = subprocess.run(
        [str(BIN / "opentelemetry-instrument"), "python", str(script)],
        env=environment(site, OTEL_CONFIG_FILE=str(site / "otel.yaml")),
        cwd=site,
        capture_output=True,
        text=True,
        timeout=120,
    )

    # Then the request has one profile
    assert run.returncode == 0, run.stderr
    assert run.stdout.count('"pyinstrument.profile"') == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stderr, run.stderr
