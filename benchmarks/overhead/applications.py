"""The applications under test, called without a server: what is counted is they and their profiler."""

from __future__ import annotations

import asyncio
import io
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.overhead.contenders import BarePyinstrument

CONCURRENT = 8
"""Requests at a time on the event loop."""

Visit = Callable[[int], None]
"""Serves so many requests, and raises when one does not succeed."""


def flask_page(bare: BarePyinstrument | None) -> Visit:
    """An N+1 over sqlite, some computing in Python, a template."""
    from flask import Flask, render_template_string

    app = Flask(__name__)
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute("create table item (id integer primary key, name text, price real)")
    items = [(f"item {number}", number * 1.5) for number in range(200)]
    connection.executemany("insert into item (name, price) values (?, ?)", items)

    def score(price: float, weight: int) -> float:
        return (price * weight) % 7.3

    def rank(rows: list[tuple[int, str, float]]) -> list[tuple[int, str, float]]:
        return sorted(rows, key=lambda row: sum(score(row[2], weight) for weight in range(150)))

    @app.get("/orders/<int:order_id>")
    def order(order_id: int) -> str:
        rows = [
            # Through a cursor: the instrumentation does not see the connection's own `execute`.
            connection.cursor()
            .execute("select id, name, price from item where id = ?", (1 + (order_id + number) % 200,))
            .fetchone()
            for number in range(40)
        ]
        return render_template_string(
            "{% for row in rows %}<li>{{ row[0] }} {{ row[1] }} {{ '%.2f'|format(row[2]) }}</li>{% endfor %}",
            rows=rank(rows),
        )

    return _visits_of_wsgi(app if bare is None else bare.wsgi(app), "/orders/{}")


def django_page(bare: BarePyinstrument | None) -> Visit:
    """An N+1 of the ORM and a template."""
    from benchmarks.overhead.django_page import make_application

    app = make_application()
    return _visits_of_wsgi(app if bare is None else bare.wsgi(app), "/shops/{}/orders")


def fastapi_loop(bare: BarePyinstrument | None) -> Visit:
    """An `async def` endpoint that computes and awaits in turns, 8 requests at a time on one loop."""
    from fastapi import FastAPI

    app = FastAPI()

    def price(number: int) -> float:
        return (number * 37) % 101 / 7

    @app.get("/quotes/{quote_id}")
    async def quote(quote_id: int) -> dict[str, float]:
        total = 0.0
        for step in range(6):
            total += sum(price(quote_id + step + number) for number in range(3_000))
            await asyncio.sleep(0.002)
        return {"total": total}

    if bare is not None:
        app.add_middleware(bare.asgi)
    loop = asyncio.new_event_loop()

    async def visits(count: int) -> None:
        numbers = iter(range(count))

        async def visitor() -> None:
            for number in numbers:
                # A task for each request, as every server makes it.
                await asyncio.create_task(_visit_asgi(app, f"/quotes/{number}"))

        await asyncio.gather(*(visitor() for _ in range(CONCURRENT)))

    return lambda count: loop.run_until_complete(visits(count))


APPLICATIONS: dict[str, Callable[..., Visit]] = {
    "flask": flask_page,
    "django": django_page,
    "fastapi": fastapi_loop,
}


async def _visit_asgi(app: Any, path: str) -> None:
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"user-agent", b"benchmark")],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    if statuses != [200]:
        raise AssertionError(f"the application answered {statuses}")


def _visits_of_wsgi(app: Any, path: str) -> Visit:
    def visit(count: int) -> None:
        for number in range(count):
            statuses: list[str] = []
            environ = {
                "REQUEST_METHOD": "GET",
                "SCRIPT_NAME": "",
                "PATH_INFO": path.format(number),
                "QUERY_STRING": "",
                "SERVER_NAME": "localhost",
                "SERVER_PORT": "80",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "HTTP_HOST": "localhost",
                "HTTP_USER_AGENT": "benchmark",
                "REMOTE_ADDR": "127.0.0.1",
                "wsgi.version": (1, 0),
                "wsgi.url_scheme": "http",
                "wsgi.input": io.BytesIO(),
                "wsgi.errors": sys.stderr,
                "wsgi.multithread": True,
                "wsgi.multiprocess": False,
                "wsgi.run_once": False,
            }

            def start_response(
                status: str, _headers: object, _error: object = None, statuses: list[str] = statuses
            ) -> None:
                statuses.append(status)

            answer = app(environ, start_response)
            try:
                b"".join(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()
            if not statuses or not statuses[0].startswith("200"):
                raise AssertionError(f"the application answered {statuses}")

    return visit
