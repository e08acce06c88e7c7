"""A real application in a process of its own, with one name of a library renamed in the library's source.

    python application.py '{"scenario": "flask", "rename": "_events", "in": ["opentelemetry"]}'

Prints one JSON object: what was answered, how many profiles arrived, and every warning.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path

SUFFIX = "_by_another_name"
REQUESTS = 4


class Renaming:
    """Compiles the modules of some packages from a source in which one name is another."""

    def __init__(self, name: str, packages: list[str]) -> None:
        self.places = 0
        self._name = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        self._packages = packages
        self._replacement = f"{name.removesuffix('__')}{SUFFIX}"

    def install(self) -> None:
        original = SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, fullname: str) -> object:
            if not any(fullname == each or fullname.startswith(f"{each}.") for each in self._packages):
                return original(loader, fullname)
            path = loader.get_filename(fullname)
            source, count = self._name.subn(self._replacement, loader.get_data(path).decode("utf-8"))
            self.places += count
            return compile(source, path, "exec", dont_inherit=True) if count else original(loader, fullname)

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign,assignment]


def misbehave(target: str, how: str) -> None:
    """Replace the function `module:Class.name` by one that has changed its ways."""
    from importlib import import_module

    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = import_module(module)
    for each in owners:
        owner = getattr(owner, each)

    def fail(*_arguments: object, **_options: object) -> object:
        raise RuntimeError("the library has changed")

    replacement = {
        "raises": fail,
        "returns None": lambda *_arguments, **_options: None,
        "takes other arguments": lambda *, something_else: something_else,
    }[how]
    setattr(owner, name, replacement)


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.name}: {record.getMessage()}")


class Backend:
    """Takes OTLP over HTTP and gRPC, and counts profiles."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []

    def http(self) -> str:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    def grpc(self) -> str:
        from concurrent.futures import ThreadPoolExecutor

        import grpc

        self._server = grpc.server(ThreadPoolExecutor(1))
        name = "opentelemetry.proto.collector.trace.v1.TraceService"
        export = grpc.unary_unary_rpc_method_handler(
            lambda body, _context: self.bodies.append(("/v1/traces", body)) or b""
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, {"Export": export})]
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return f"http://127.0.0.1:{port}"

    def arrived(self) -> dict[str, object]:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        names: list[str] = []
        profiles = logs = 0
        callers: set[str] = set()
        for path, body in self.bodies:
            if path.endswith("logs"):
                request = ExportLogsServiceRequest.FromString(body)
                logs += sum(len(s.log_records) for r in request.resource_logs for s in r.scope_logs)
                continue
            traces = ExportTraceServiceRequest.FromString(body)
            for span in (s for r in traces.resource_spans for scope in r.scope_spans for s in scope.spans):
                names.append(span.name)
                for event in span.events:
                    profiles += event.name == "pyinstrument.profile"
                    callers |= _caller_files(event)
        return {"spans": sorted(names), "profiles": profiles, "logs": logs, "callers": sorted(callers)}


def _caller_files(event: object) -> set[str]:
    attributes = {each.key: each.value.string_value for each in event.attributes}  # type: ignore[attr-defined]
    groups = json.loads(attributes.get("pyinstrument.facts", "{}")).get("database", {}).get("groups", [])
    return {Path(caller["file"]).name for group in groups for caller in group["callers"]}


def work(seconds: float = 0.01) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))


def ask(port: int, paths: list[str]) -> list[str]:
    from http.client import HTTPConnection

    answers = []
    for path in paths:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        answers.append(f"{answer.status} {answer.read().decode()}")
        connection.close()
    return answers


def flask_app(provider: object) -> Callable[[], list[str]]:
    from flask import Flask, render_template
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from werkzeug.serving import make_server

    app = Flask(__name__, template_folder=str(Path(__file__).parent / "templates"))
    query = _query_function(provider)

    @app.get("/<int:number>")
    def page(number: int) -> str:
        work()
        return f"page {number}"

    @app.get("/jinja")
    def jinja() -> str:
        return render_template("jinja.html", query=query)

    @app.get("/django")
    def django() -> str:
        from django.template import Context, Engine

        return (
            Engine(dirs=[app.template_folder]).get_template("django.html").render(Context({"query": query}))
        )

    @app.get("/fails")
    def fails() -> str:
        raise ValueError("the application's own")

    @app.errorhandler(ValueError)
    def failed(error: ValueError) -> tuple[str, int]:
        return str(error), 500

    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.log = lambda *_arguments: None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    def run() -> list[str]:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            return ask(
                server.port, [f"/{number}" for number in range(REQUESTS)] + ["/jinja", "/django", "/fails"]
            )
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    return run


def _query_function(provider: object) -> Callable[[], object]:
    """Executes a query in library code, so that the template which calls it is what issued it."""
    import sqlite3

    from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor

    connection = sqlite3.connect(":memory:", check_same_thread=False)
    traced = SQLite3Instrumentor().instrument_connection(connection, tracer_provider=provider)
    return partial(traced.cursor().execute, "select 1")


def fastapi_app(provider: object) -> Callable[[], list[str]]:
    import asyncio
    import signal

    import uvicorn
    from asgiref.sync import async_to_sync, sync_to_async
    from fastapi import FastAPI
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    app = FastAPI()

    @app.get("/async")
    async def asynchronous() -> str:
        work()
        await asyncio.sleep(0.01)
        return "async"

    @app.get("/def")
    def synchronous() -> str:
        work()
        return "def"

    @app.get("/thread")
    async def thread() -> str:
        await sync_to_async(work)()
        return "thread"

    @app.get("/loop")
    def loop() -> str:
        return async_to_sync(asynchronous)()

    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    answers: list[str] = []
    signals: list[int] = []

    def client() -> None:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        answers.extend(ask(port, ["/async", "/def", "/thread", "/loop"]))
        signal.raise_signal(signal.SIGTERM)

    def run() -> list[str]:
        # Uvicorn raises the signal again with the handler that was there before.
        signal.signal(signal.SIGTERM, lambda number, _frame: signals.append(number))
        threading.Thread(target=client, daemon=True).start()
        server.run()
        return [*answers, f"signals {signals}"]

    return run


def providers(scenario: str, backend: Backend) -> object:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    if scenario == "flask with a spool, grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=backend.grpc(), insecure=True)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=f"{backend.http()}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=60_000))
    return provider


def logger_provider(backend: Backend) -> object:
    from opentelemetry import _logs
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(
        BatchLogRecordProcessor(
            OTLPLogExporter(endpoint=f"{backend.http()}/v1/logs"), schedule_delay_millis=60_000
        )
    )
    _logs.set_logger_provider(provider)
    return provider


def main(case: dict[str, object]) -> dict[str, object]:
    scenario = str(case["scenario"])
    renaming = None
    if "rename" in case:
        renaming = Renaming(str(case["rename"]), list(case["in"]))  # type: ignore[call-overload]
        renaming.install()
    for module in case.get("without", ()):  # type: ignore[attr-defined]
        sys.modules[module] = None  # type: ignore[assignment]
    warnings = Warnings()
    logging.getLogger().addHandler(warnings)
    backend = Backend()
    provider = providers(scenario, backend)
    logs = logger_provider(backend) if scenario == "flask with log events" else None
    if "misbehave" in case:
        misbehave(str(case["misbehave"]), str(case["how"]))
    run = (fastapi_app if scenario == "fastapi" else flask_app)(provider)

    from otel_pyinstrument import PyinstrumentInstrumentor

    spool = {"spool_dir": str(case["directory"])} if "spool" in scenario else {}
    event = {"event": "log"} if logs is not None else {}
    PyinstrumentInstrumentor().instrument(
        tracer_provider=provider, rate=1, cpu_budget=1, interval=1, max_concurrent=8, **spool, **event
    )
    answers = run()
    arrived_by_itself = len(backend.bodies)
    for each in filter(None, (provider, logs)):
        each.force_flush()  # type: ignore[attr-defined]
    if PyinstrumentInstrumentor().is_instrumented_by_opentelemetry:
        PyinstrumentInstrumentor().uninstrument()
    for each in filter(None, (provider, logs)):
        each.shutdown()  # type: ignore[attr-defined]
    return {
        "answers": answers,
        "warnings": warnings.records,
        "renamed": None if renaming is None else renaming.places,
        "flushed": arrived_by_itself > 0,
        "hooks": [str(sys.getprofile())] if sys.getprofile() is not None else [],
        **backend.arrived(),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
