"""What profiling costs the application: CPU per request of a Flask page, as a ratio to OpenTelemetry alone.

Every contender runs in a fresh process, the contenders take turns for several rounds, and the median of the
rounds counts, so that a noisy neighbour hits all of them. CPU is the whole process's (all threads), so
encoding and exporting are in it; the spans go over OTLP/gRPC to a real server in another process.

    python benchmarks/overhead.py [--rounds 5] [--requests 200]
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

CONTENDERS = {
    "plain": "Flask alone",
    "otel": "OpenTelemetry (Flask, sqlite3, Jinja)",
    "gate_closed": "ours, rate 0",
    "ours_default": "ours, default settings",
    "ours_all": "ours, every request, 10 ms",
    "pyinstrument_all": "OpenTelemetry + bare pyinstrument, every request, 10 ms",
}


def serve_sink() -> None:
    """An OTLP/gRPC endpoint that accepts everything; prints its port, lives until stdin closes."""
    import grpc

    def accept(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(2))
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(accept)}
    for signal in ("trace.v1.TraceService", "logs.v1.LogsService", "metrics.v1.MetricsService"):
        service = f"opentelemetry.proto.collector.{signal}"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0)


def make_app():
    """A page as they are: an N+1 over sqlite, some computing in Python, a template. About 10 ms of CPU."""
    from flask import Flask, render_template_string

    app = Flask(__name__)
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute("create table item (id integer primary key, name text, price real)")
    connection.executemany(
        "insert into item (name, price) values (?, ?)", [(f"item {i}", i * 1.5) for i in range(200)]
    )

    def score(price: float, weight: int) -> float:
        return (price * weight) % 7.3

    def rank(rows: list[tuple[int, str, float]]) -> list[tuple[int, str, float]]:
        return sorted(rows, key=lambda row: sum(score(row[2], weight) for weight in range(150)))

    @app.get("/orders/<int:order_id>")
    def order(order_id: int) -> str:
        rows = [
            connection.execute(
                "select id, name, price from item where id = ?", (1 + (order_id + i) % 200,)
            ).fetchone()
            for i in range(40)
        ]
        return render_template_string(
            "{% for row in rows %}<li>{{ row[0] }} {{ row[1] }} {{ '%.2f'|format(row[2]) }}</li>{% endfor %}",
            rows=rank(rows),
        )

    return app


def profile_each_request(app) -> None:
    """pyinstrument as its documentation shows it for Flask, at our default interval, without rendering."""
    from flask import g
    from pyinstrument import Profiler

    @app.before_request
    def start() -> None:
        g.profiler = Profiler(interval=0.01)
        g.profiler.start()

    @app.after_request
    def stop(response):
        g.profiler.stop()
        return response


def run_contender(name: str, requests: int) -> None:
    """In a process of its own: serve `requests` through WSGI and print the cost per request."""
    if name != "plain":
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        initialize()
    app = make_app()
    if name == "pyinstrument_all":
        profile_each_request(app)
    client = app.test_client()

    def visit(count: int) -> None:
        for i in range(count):
            assert client.get(f"/orders/{i}").status_code == 200

    visit(20)
    cpu, wall = time.process_time(), time.perf_counter()
    visit(requests)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        json.dumps(
            {"cpu_us": cpu / requests * 1e6, "wall_us": wall / requests * 1e6, "rss_mb": peak_rss_mb()}
        ),
        flush=True,
    )


def peak_rss_mb() -> float:
    """Peak resident memory of this process in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, requests: int, port: int) -> dict[str, float]:
    """One round of one contender in a fresh process."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYINSTRUMENT_"))
    }
    environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_SERVICE_NAME": "benchmark",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PYINSTRUMENT_ENABLED": "true" if name.startswith(("ours", "gate")) else "false",
    }
    rate = {"gate_closed": "0", "ours_all": "1"}.get(name)
    if rate is not None:
        environment["OTEL_PYINSTRUMENT_RATE"] = rate
    if name == "ours_all":
        environment["OTEL_PYINSTRUMENT_CPU_BUDGET"] = "1"
    command = [sys.executable, __file__, "--contender", name, "--requests", str(requests)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run one contender, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--contender", choices=[*CONTENDERS, "sink"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender == "sink":
        serve_sink()
    elif options.contender:
        run_contender(options.contender, options.requests)
    else:
        compare(options.rounds, options.requests)


def compare(rounds: int, requests: int) -> None:
    """All contenders in turns, then the table."""

    sink = subprocess.Popen(
        [sys.executable, __file__, "--contender", "sink"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sink.stdin is not None
    assert sink.stdout is not None
    port = int(sink.stdout.readline())
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in CONTENDERS:
            results[name].append(measure(name, requests, port))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    sink.stdin.close()
    sink.wait(10)

    def median(name: str, key: str) -> float:
        return statistics.median(result[key] for result in results[name])

    base = median("otel", "cpu_us")
    print(
        f"\n{Path(__file__).name}: Python {sys.version.split()[0]}, {requests} requests x {rounds} rounds\n"
    )
    print(f"| {'contender':55} | CPU us/request | CPU ratio to OTel | spread | peak RSS MB |")
    print(f"|{'-' * 57}|---:|---:|---:|---:|")
    for name, title in CONTENDERS.items():
        ratios = [result["cpu_us"] / base for result in results[name]]
        spread = f"{min(ratios):.2f}..{max(ratios):.2f}"
        cpu = median(name, "cpu_us")
        print(f"| {title:55} | {cpu:14.0f} | {cpu / base:17.2f} | {spread} | {median(name, 'rss_mb'):.0f} |")


if __name__ == "__main__":
    main()
