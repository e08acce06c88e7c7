"""The real instrumentations under each generation of names that a user can choose: the same facts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[3]
ORDERS = 20

GENERATIONS = {
    None: {"old"},
    "http,database": {"new"},
    "http/dup,database/dup": {"old", "new"},
}
"""Values of OTEL_SEMCONV_STABILITY_OPT_IN, and the names that spans have then."""

INSTRUMENTED = """
import json
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_pyinstrument import PyinstrumentInstrumentor

provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
PyinstrumentInstrumentor().instrument(tracer_provider=provider, rate=1, cpu_budget=1)

from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor

app = Flask(__name__)
FlaskInstrumentor().instrument_app(app, tracer_provider=provider)

def report():
    spans = exporter.get_finished_spans()
    (event,) = [event for span in spans for event in span.events if event.name == "pyinstrument.profile"]
    print(json.dumps({
        "facts": json.loads(event.attributes["pyinstrument.facts"]),
        "spans": [
            {
                "name": span.name,
                "kind": span.kind.name,
                "scope": span.instrumentation_scope.name.rpartition(".")[2],
                "seconds": (span.end_time - span.start_time) / 1e9,
                "attributes": sorted(span.attributes),
            }
            for span in spans
        ],
    }))
"""

QUERIES = """
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from sqlalchemy import create_engine, text

SQLite3Instrumentor().instrument(tracer_provider=provider)
engine = create_engine("sqlite://")
SQLAlchemyInstrumentor().instrument(engine=engine, tracer_provider=provider)
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE orders (id)"))
    connection.execute(text("CREATE TABLE items (order_id)"))
    for number in range(ORDERS):
        connection.execute(text("INSERT INTO orders VALUES (:id)"), {"id": number})
exporter.clear()

def load_items(connection, order):
    connection.execute(text("SELECT * FROM items WHERE order_id = :id"), {"id": order}).all()

@app.get("/shops/<int:shop>")
def page(shop):
    with engine.connect() as connection:
        for (order,) in connection.execute(text("SELECT id FROM orders")).all():
            load_items(connection, order)
    return "done"

app.test_client().get("/shops/7")
report()
"""

CALLS = """
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor

class Supplier(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass

server = HTTPServer(("127.0.0.1", 0), Supplier)
threading.Thread(target=server.serve_forever, daemon=True).start()
RequestsInstrumentor().instrument(tracer_provider=provider)

@app.get("/shops/<int:shop>")
def page(shop):
    for number in range(3):
        requests.get(f"http://127.0.0.1:{server.server_port}/stock/{number}?token=x")
    return "done"

app.test_client().get("/shops/7")
report()
"""


def reported(script: str, opt_in: str | None, folder: Path) -> dict:
    application = folder / "application.py"
    application.write_text(f"ORDERS = {ORDERS}\n{INSTRUMENTED}{script}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment["PYTHONPATH"] = str(ROOT)
    if opt_in is not None:
        environment["OTEL_SEMCONV_STABILITY_OPT_IN"] = opt_in
    run = subprocess.run(
        [sys.executable, str(application)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    return json.loads(run.stdout)


def generations(spans: list[dict], old: str, new: str) -> set[str]:
    """Which of two names of the same thing the spans have; all of them the same."""
    (found,) = {(old in span["attributes"], new in span["attributes"]) for span in spans}
    return {generation for generation, there in zip(("old", "new"), found, strict=True) if there}


@pytest.mark.parametrize("opt_in", GENERATIONS)
def test_queries_are_counted_and_timed_once_under_each_generation_of_names(opt_in, tmp_path) -> None:
    if opt_in and Version(metadata.version("opentelemetry-instrumentation-dbapi")) < Version("0.64b0"):
        pytest.skip("older instrumentations of databases know the old names only")
    # Given a page that asks for the items of each order, through SQLAlchemy and the driver below it
    found = reported(QUERIES, opt_in, tmp_path)

    # Then both tell of each query, under the names that were chosen
    above, below = (
        [span for span in found["spans"] if span["scope"] == scope and span["name"] != "connect"]
        for scope in ("sqlalchemy", "sqlite3")
    )
    assert len(above) == len(below) == ORDERS + 1
    assert generations(above + below, "db.statement", "db.query.text") == GENERATIONS[opt_in]

    # And they are the same queries, in the time of the outer spans
    database = found["facts"]["database"]
    groups = {group["name"]: group for group in database["groups"]}
    assert {name: group["count"] for name, group in groups.items()} == {
        "SELECT id FROM orders": 1,
        "SELECT * FROM items WHERE order_id = ?": ORDERS,
    }
    assert (database["count"], database.get("failed", 0)) == (ORDERS + 1, 0)
    assert {group["system"] for group in groups.values()} == {"sqlite"}
    assert database["duration"] == pytest.approx(sum(span["seconds"] for span in above), abs=1e-4)

    # And the line that issues the N+1 is named, and the request
    assert [each["function"] for each in groups["SELECT * FROM items WHERE order_id = ?"]["callers"]] == [
        "load_items"
    ]
    assert found["facts"]["request"]["method"] == "GET"
    assert found["facts"]["request"]["route"] == "/shops/<int:shop>"
    assert found["facts"]["response"]["status_code"] == 200


@pytest.mark.skipif(find_spec("opentelemetry.instrumentation.requests") is None, reason="not installed here")
@pytest.mark.parametrize("opt_in", GENERATIONS)
def test_outgoing_calls_are_counted_and_timed_once_under_each_generation_of_names(opt_in, tmp_path) -> None:
    found = reported(CALLS, opt_in, tmp_path)

    calls = [span for span in found["spans"] if span["kind"] == "CLIENT"]
    assert generations(calls, "http.method", "http.request.method") == GENERATIONS[opt_in]
    external = found["facts"]["external"]
    (group,) = external["groups"]
    assert group["name"].startswith("GET 127.0.0.1:")
    assert group["name"].removeprefix("GET 127.0.0.1:").isdigit()
    assert (external["count"], group["count"], len(calls)) == (3, 3, 3)
    assert external["duration"] == pytest.approx(sum(span["seconds"] for span in calls), abs=1e-4)
    (server,) = [span for span in found["spans"] if span["kind"] == "SERVER"]
    assert generations([server], "http.method", "http.request.method") == GENERATIONS[opt_in]
